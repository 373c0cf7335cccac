//! Manifests of the examples, for `abbey init --example`.

/// Name and text.
pub(crate) const ALL: [(&str, &str); 3] = [
    (
        "clawdie",
        include_str!("../../../examples/clawdie/abbey.yaml"),
    ),
    (
        "wizards",
        include_str!("../../../examples/wizards/abbey.yaml"),
    ),
    (
        "atomizer",
        include_str!("../../../examples/atomizer/abbey.yaml"),
    ),
];
