//! Manifests of the examples, for `abbey init --example`.

/// Name and manifest of each example.
pub(crate) const ALL: [(&str, &str); 4] = [
    (
        "clawdie",
        include_str!("../../../examples/clawdie/abbey.yaml"),
    ),
    (
        "wizards",
        include_str!("../../../examples/wizards/abbey.yaml"),
    ),
    (
        "harbour",
        include_str!("../../../examples/harbour/abbey.yaml"),
    ),
    (
        "atomizer",
        include_str!("../../../examples/atomizer/abbey.yaml"),
    ),
];
