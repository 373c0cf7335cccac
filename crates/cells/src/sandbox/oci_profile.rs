//! The list of system calls as a seccomp profile of the Open Container Initiative, which Podman hands to its runtime.
//! Source: the runtime specification, `config-linux.md`, section "Seccomp"; seccomp.json(5).

use super::seccomp::{Condition, HIDDEN, Permission, permissions};
use abbey_model::Profile;
use serde::Serialize;

/// The profile's document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OciSeccomp {
    default_action: &'static str,
    default_errno_ret: i32,
    /// Calls of any other architecture of this processor (i386, x32) end the program.
    architectures: [&'static str; 1],
    syscalls: Vec<OciRule>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OciRule {
    names: Vec<&'static str>,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<i32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<OciComparison>,
}

/// Comparison of one argument. Those of one rule are of different arguments: runtimes take several of one argument as
/// alternatives.
#[derive(Serialize, Clone)]
#[serde(rename_all = "camelCase")]
struct OciComparison {
    index: u8,
    /// Of a masked comparison the mask, and the value is the second.
    value: u32,
    value_two: u32,
    op: &'static str,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: &str = "SCMP_ARCH_X86_64";
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: &str = "SCMP_ARCH_AARCH64";
const ALLOW: &str = "SCMP_ACT_ALLOW";
const REFUSE: &str = "SCMP_ACT_ERRNO";

/// Text of the seccomp profile for a container runtime that allows and refuses what
/// [`seccomp_filters`](super::seccomp::seccomp_filters) does.
pub(crate) fn oci_seccomp_profile(profile: Profile) -> serde_json::Result<String> {
    let allowed: Vec<Permission> = permissions(profile)
        .into_iter()
        .filter(|p| p.call != HIDDEN)
        .collect();
    let (plain, conditional): (Vec<&Permission>, Vec<&Permission>) =
        allowed.iter().partition(|p| p.alternatives.is_empty());
    let mut syscalls = vec![OciRule {
        names: plain.iter().map(|p| p.call.name()).collect(),
        action: ALLOW,
        errno_ret: None,
        args: Vec::new(),
    }];
    for permission in conditional {
        let alternatives = permission.alternatives.iter().flat_map(|a| comparisons(a));
        syscalls.extend(alternatives.map(|args| OciRule {
            names: vec![permission.call.name()],
            action: ALLOW,
            errno_ret: None,
            args,
        }));
    }
    syscalls.push(OciRule {
        names: vec![HIDDEN.name()],
        action: REFUSE,
        errno_ret: Some(libc::ENOSYS),
        args: Vec::new(),
    });
    serde_json::to_string(&OciSeccomp {
        default_action: REFUSE,
        default_errno_ret: libc::EPERM,
        architectures: [ARCHITECTURE],
        syscalls,
    })
}

/// The conditions of one alternative, as alternatives of which each has one comparison for an argument.
fn comparisons(conditions: &[Condition]) -> Vec<Vec<OciComparison>> {
    conditions.iter().fold(vec![Vec::new()], |all, condition| {
        let (index, masked) = match *condition {
            Condition::Masked {
                argument,
                mask,
                value,
            } => (argument, vec![(mask, value)]),
            Condition::NoneOf { argument, values } => (argument, masks_outside(values)),
        };
        let extended = |before: &Vec<OciComparison>| {
            let before = before.clone();
            masked.clone().into_iter().map(move |(value, value_two)| {
                let op = "SCMP_CMP_MASKED_EQ";
                [
                    before.clone(),
                    vec![OciComparison {
                        index,
                        value,
                        value_two,
                        op,
                    }],
                ]
                .concat()
            })
        };
        all.iter().flat_map(extended).collect()
    })
}

/// Masks and values of which exactly one fits each 32-bit number that is not in `values`, and none fits those.
///
/// A runtime compares all 64 bits of an argument where the kernel reads 32, so a comparison for inequality would let the
/// refused value pass with any higher bit set; one by a mask does not.
fn masks_outside(values: &[u32]) -> Vec<(u32, u32)> {
    fn walk(bits: u32, prefix: u32, values: &[u32], found: &mut Vec<(u32, u32)>) {
        if bits == 0 {
            return;
        }
        let (bit, mask) = (1 << (bits - 1), u32::MAX << (bits - 1));
        for prefix in [prefix, prefix | bit] {
            let within: Vec<u32> = values
                .iter()
                .copied()
                .filter(|v| v & mask == prefix)
                .collect();
            match within.is_empty() {
                true => found.push((mask, prefix)),
                false => walk(bits - 1, prefix, &within, found),
            }
        }
    }
    let mut found = Vec::new();
    walk(u32::BITS, 0, values, &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn rules(profile: Profile, name: &str) -> Vec<Value> {
        let document: Value = serde_json::from_str(&oci_seccomp_profile(profile).unwrap()).unwrap();
        let all = document["syscalls"].as_array().unwrap();
        let named = |r: &&Value| r["names"].as_array().unwrap().contains(&name.into());
        all.iter().filter(named).cloned().collect()
    }

    #[test]
    fn a_masked_comparison_refuses_a_value_whatever_its_higher_bits() {
        let refused = [0x5412, 0x541c];
        let masks = masks_outside(&refused);
        let fits = |argument: u64| {
            let fit =
                |(mask, value): &&(u32, u32)| argument & u64::from(*mask) == u64::from(*value);
            masks.iter().filter(fit).count()
        };
        for value in refused {
            assert_eq!(fits(value.into()) + fits(u64::from(value) | 1 << 32), 0);
        }
        for value in [
            0,
            0x5401,
            0x5411,
            0x5413,
            0x541b,
            0x541d,
            0x8000_5412,
            u32::MAX,
        ] {
            assert_eq!(fits(value.into()), 1, "{value:#x}");
        }
    }

    #[test]
    fn the_profile_of_a_container_allows_what_the_filter_of_a_sandbox_does() {
        for &profile in Profile::ALL {
            for permission in permissions(profile) {
                let rules = rules(profile, permission.call.name());
                assert!(!rules.is_empty(), "{permission:?}");
            }
        }
        for call in ["unshare", "mount", "keyctl", "bpf", "setns"] {
            assert_eq!(rules(Profile::Jit, call), [] as [Value; 0]);
        }
        let [clone3] = &rules(Profile::Jit, "clone3")[..] else {
            panic!("one rule for clone3");
        };
        assert_eq!(
            (&clone3["action"], &clone3["errnoRet"]),
            (&REFUSE.into(), &38.into())
        );
        // No rule compares one argument twice, which runtimes take as alternatives.
        for name in ["ioctl", "socket", "clone", "mmap"] {
            for rule in rules(Profile::Strict, name) {
                let mut indexes: Vec<u64> = rule["args"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|a| a["index"].as_u64().unwrap())
                    .collect();
                let all = indexes.len();
                indexes.dedup();
                assert_eq!(indexes.len(), all, "{rule}");
            }
        }
    }
}
