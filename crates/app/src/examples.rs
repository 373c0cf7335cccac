//! Manifests of the examples, for `abbey init --example`.

/// Name and text.
pub(crate) const ALL: [(&str, &str); 1] = [(
    "clawdie",
    include_str!("../../../examples/clawdie/abbey.yaml"),
)];
