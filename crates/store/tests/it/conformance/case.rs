//! A case of the suite, and the macro with which a file declares its cases.

use crate::support::Bench;

/// One behaviour that every store must have.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) operations: &'static [&'static str],
    pub(super) run: fn(&mut Bench),
}

/// Declares the cases of a file: the function, and the operations that it checks.
macro_rules! cases {
    ($($name:ident checks $($operation:ident)+;)+) => {
        pub(super) const CASES: &[super::case::Case] = &[$(
            super::case::Case {
                name: stringify!($name),
                operations: &[$(stringify!($operation)),+],
                run: $name,
            },
        )+];
    };
}
pub(super) use cases;
