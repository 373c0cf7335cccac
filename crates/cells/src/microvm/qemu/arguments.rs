//! QEMU's `microvm` machine, with KVM where it is usable and by translation where it is not.
//! Source: QEMU's documentation, system/i386/microvm.

use crate::CellSpec;
use abbey_model::Bytes;

/// The program.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";
/// Where its files are in its own eyes.
pub(super) const ROOT: &str = "/vm";
/// Name of the port to the first process of the guest.
pub(crate) const PORT: &str = "abbey.guest";
/// Numbers of the descriptors that it is given.
const CHANNEL: u32 = 4;
const MONITOR: u32 = 5;
const MEMORY: u32 = 6;
/// Rate of the time stamp counter where it cannot be measured, kHz.
const TSC_KHZ: u32 = 2_000_000;
/// Memory for translated code.
const TRANSLATED_MIB: u32 = 64;
/// Processor that is translated. Without a promise that copying byte by byte is fast (`erms`, `fsrm`) the kernel and its
/// programs copy by words, which takes an eighth of the steps; with four levels of page tables (no `la57`) a page is found in
/// four steps and not in five.
const TRANSLATED_PROCESSOR: &str = "max,-erms,-fsrm,-la57";

/// A microVM is paused while it waits and when its operator says so. Its kernel would take that for a processor that hangs, and
/// print so for a second before it goes on.
const PAUSED: &str = " rcupdate.rcu_cpu_stall_suppress=1 nowatchdog";

/// Origin of a microVM's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemorySource {
    /// New memory of its own.
    Own,
    /// Memory of a template that is being made, shared with the shim.
    Shared,
    /// Copy-on-write view of a template's memory; the microVM starts from the template.
    Copied,
}

/// Memory of a microVM: the cell's limit in whole MiB, at least 64 MiB.
pub(super) fn guest_memory(spec: &CellSpec) -> Bytes {
    Bytes((spec.limits.memory.0 >> 20).max(64) << 20)
}

/// Complete QEMU command line of a microVM. Nothing in it comes from a guest or an agent.
pub(super) fn qemu_arguments(
    spec: &CellSpec,
    drives: bool,
    kvm: bool,
    whose: MemorySource,
) -> Vec<String> {
    let memory = guest_memory(spec).0 >> 20;
    let cpus = spec.limits.cpu_milli.div_ceil(1000).max(1);
    let (accelerator, processor, clock) = match kvm {
        true => ("kvm".to_owned(), "max", String::new()),
        // Without a real processor the kernel cannot measure its clock and need not defend itself against it. What it
        // counts is the counter of the host. A program's translation is found again where the program is at the same
        // address; at random addresses (without `norandmaps`) all of it would be translated at each start.
        false => (
            format!("tcg,tb-size={TRANSLATED_MIB}"),
            TRANSLATED_PROCESSOR,
            format!(
                " nokaslr norandmaps mitigations=off psi=0 deferred_probe_timeout=0 tsc=reliable no_timer_check lpj=4000000 tsc_early_khz={}",
                abbey_launch::tsc_khz().unwrap_or(TSC_KHZ)
            ),
        ),
    };
    let mut all: Vec<String> = vec![PROGRAM.to_owned()];
    let mut add = |arguments: &[&str]| all.extend(arguments.iter().map(|a| (*a).to_owned()));
    add(&[
        "-M",
        "microvm,acpi=on,pit=on,pic=on,rtc=on,memory-backend=ram",
    ]);
    add(&["-accel", &accelerator]);
    add(&["-cpu", processor, "-smp", &cpus.to_string()]);
    add(&["-m", &memory.to_string()]);
    let file = |share: &str| {
        format!(
            "memory-backend-file,id=ram,size={memory}M,mem-path=/proc/self/fd/{MEMORY},share={share}"
        )
    };
    let object = match whose {
        MemorySource::Own => format!("memory-backend-ram,id=ram,size={memory}M"),
        MemorySource::Shared => file("on"),
        MemorySource::Copied => file("off"),
    };
    add(&["-object", &object]);
    if whose == MemorySource::Copied {
        add(&["-incoming", "defer"]);
    }
    let waits = match whose {
        MemorySource::Own => "",
        MemorySource::Shared | MemorySource::Copied => " abbey.wait",
    };
    add(&[
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    add(&[
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]);
    add(&["-kernel", &format!("{ROOT}/kernel")]);
    add(&["-initrd", &format!("{ROOT}/initrd")]);
    add(&[
        "-append",
        &format!("console=ttyS0 quiet reboot=t panic=-1{PAUSED}{clock}{waits}"),
    ]);
    add(&[
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
    ]);
    add(&["-device", "virtio-serial-device"]);
    add(&["-chardev", &format!("socket,id=guest,fd={CHANNEL}")]);
    add(&[
        "-device",
        &format!("virtserialport,chardev=guest,name={PORT}"),
    ]);
    add(&["-device", "virtio-rng-device"]);
    let throttled = spec.limits.io.map_or_else(String::new, |Bytes(io)| {
        format!(",throttling.bps-read={io},throttling.bps-write={io}")
    });
    let mut drive = |name: &str, options: &str| {
        add(&[
            "-drive",
            &format!("if=none,id={name},file={ROOT}/{name},format=raw,{options}"),
            "-device",
            &format!("virtio-blk-device,drive={name},serial={name}"),
        ]);
    };
    for name in ["base", "tools", "config"] {
        drive(name, "readonly=on");
    }
    if drives {
        drive("scratch", &format!("cache=unsafe,discard=unmap{throttled}"));
        for name in ["state", "workspace"] {
            // A flush of the guest is a flush of the host's disk. What the guest discards stays taken: it is the drive's.
            drive(name, &format!("cache=writeback,discard=ignore{throttled}"));
        }
    }
    add(&["-chardev", &format!("socket,id=monitor,fd={MONITOR}")]);
    add(&["-mon", "chardev=monitor,mode=control"]);
    all
}
