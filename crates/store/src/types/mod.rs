//! What goes into the operations of the store and what comes out.

mod approvals;
mod budgets;
mod delegation;
mod documents;
mod house;
mod leases;
mod schedules;
mod tasks;
mod workflows;

pub use approvals::*;
pub use budgets::*;
pub use delegation::*;
pub use documents::*;
pub use house::*;
pub use leases::*;
pub use schedules::*;
pub use tasks::*;
pub use workflows::*;
