//! The ledger's arithmetic: reserve before, settle after, never more than the limit on the way in.
//!
//! Invariants, for every account at every moment: a reservation is granted only while
//! `spent + reserved + amount <= limit`; `reserved` is the sum of the open reservations; spend
//! that turns out larger than its reservation is recorded all the same.

use crate::task::Wait;
use abbey_model::{BudgetState, Metric, Scope, Timestamp, WaitCode, WaitKind, WaitingFor, Window};
pub use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most that an account can hold, which is what the store can hold.
const AMOUNT_MAX: u64 = i64::MAX as u64;

/// Budget of one scope and metric: limit, spending and reservations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Scope that is limited.
    pub scope: Scope,
    /// Metric that is counted.
    pub metric: Metric,
    /// Period after which spending starts again from 0.
    pub window: Window,
    /// Most that may be spent in the window; none means that it is only counted.
    pub limit: Option<u64>,
    /// Share of the limit at which spending is reported as a warning, in percent.
    pub warn_percent: u8,
    /// Amount that was charged in the present window.
    pub spent: u64,
    /// Amount that open reservations hold.
    pub reserved: u64,
    /// Instant at which the present window began.
    pub period_start: Timestamp,
    /// Instant at which the next window begins; none when it never does.
    pub resets_at: Option<Timestamp>,
}

/// Refusal of a reservation, because less than the amount is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Scope of the budget.
    pub scope: Scope,
    /// Metric of the budget.
    pub metric: Metric,
    /// Amount that was to be reserved.
    pub asked: u64,
    /// Amount that remains.
    pub left: u64,
    /// Limit of the budget.
    pub limit: u64,
    /// Whether and when the amount can fit.
    pub room: Room,
    /// Amount that the budget can have left at most: the limit of a new day, or what is not yet spent in all.
    most: u64,
}

/// Amount that is to be reserved on a budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Scope of the budget.
    pub scope: Scope,
    /// Metric of the budget.
    pub metric: Metric,
    /// Amount.
    pub amount: u64,
}

/// Whether an amount fits into a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It fits.
    Now,
    /// It fits after the reset at this instant, or once open reservations are settled for less.
    Later(Option<Timestamp>),
    /// It is more than the budget can ever have left, unless the limit is raised.
    Never,
}

impl Refusal {
    /// Most that the budget can ever have left under its present limit; none if the amount that was asked for fits into
    /// that.
    pub fn most(&self) -> Option<u64> {
        (self.room == Room::Never).then_some(self.most)
    }

    /// Reason why a task waits for this budget; none when the amount can never fit.
    pub fn wait(&self) -> Option<Wait> {
        match self.room {
            Room::Never => None,
            Room::Now => Some(self.wait_until(None)),
            Room::Later(until) => Some(self.wait_until(until)),
        }
    }

    /// Reason why a task waits, whether or not the amount can ever fit.
    fn wait_until(&self, until: Option<Timestamp>) -> Wait {
        Wait {
            code: WaitCode::Budget,
            text: self.to_string(),
            waiting_for: Some(WaitingFor {
                kind: WaitKind::Budget,
                name: self.scope.to_string(),
                until,
            }),
            demand: Some(Demand {
                scope: self.scope.clone(),
                metric: self.metric,
                amount: self.asked,
            }),
        }
    }

    fn amount(&self, amount: u64) -> String {
        match self.metric {
            Metric::NanoUsd => format!("${}", dollars(amount)),
            Metric::Tokens | Metric::Runs | Metric::Seconds => amount.to_string(),
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metric = match self.metric {
            Metric::Tokens => "token",
            Metric::NanoUsd => "money",
            Metric::Runs => "run",
            Metric::Seconds => "time",
        };
        let unit = match self.metric {
            Metric::Seconds => " s",
            Metric::Tokens | Metric::NanoUsd | Metric::Runs => "",
        };
        write!(f, "the {metric} budget of ")?;
        match &self.scope {
            Scope::House => f.write_str("the house")?,
            Scope::Agent(slug) => write!(f, "agent `{slug}`")?,
            Scope::Task(_) => f.write_str("the task")?,
            Scope::Run(_) => f.write_str("the run")?,
        }
        write!(
            f,
            " has {}{unit} of {}{unit} left, but {}{unit} {} needed",
            self.amount(self.left),
            self.amount(self.limit),
            self.amount(self.asked),
            if self.asked == 1 { "is" } else { "are" },
        )?;
        match self.room {
            Room::Never => f.write_str("; it can never fit unless the limit is raised"),
            Room::Now | Room::Later(_) => Ok(()),
        }
    }
}

/// An amount of money in dollars, without zeros at its end but with two decimals at least.
fn dollars(nano_usd: u64) -> String {
    let fraction = format!("{:09}", nano_usd % 1_000_000_000);
    let shown = fraction.trim_end_matches('0');
    let kept = &fraction[..shown.len().max(2)];
    format!("{}.{kept}", nano_usd / 1_000_000_000)
}

impl Account {
    /// Amount that may still be reserved; none when the account has no limit.
    pub fn remaining(&self) -> Option<u64> {
        self.limit
            .map(|limit| limit.saturating_sub(self.spent.saturating_add(self.reserved)))
    }

    /// Level of spending, for display: ok, warning, exhausted or unlimited.
    pub fn state(&self) -> BudgetState {
        match self.limit {
            None => BudgetState::Unlimited,
            Some(limit) if self.spent >= limit => BudgetState::Exhausted,
            Some(limit) => {
                let level = u128::from(limit) * u128::from(self.warn_percent);
                if u128::from(self.spent) * 100 >= level {
                    BudgetState::Warning
                } else {
                    BudgetState::Ok
                }
            }
        }
    }

    /// The account at instant `now`: at the start of a new day the amount spent is 0 again. Open reservations stay, and
    /// are charged to the day in which they are settled.
    #[must_use]
    pub fn as_of(mut self, now: Timestamp, zone: &TimeZone) -> Account {
        if self.window == Window::Day && self.resets_at.is_none_or(|at| now >= at) {
            let (start, end) = day_bounds(now, zone);
            self.spent = if self.period_start == start {
                self.spent
            } else {
                0
            };
            self.period_start = start;
            self.resets_at = Some(end);
        }
        self
    }

    /// The account in the window of a changed limit or time zone. What was spent in a day that is not over stays spent
    /// until the new midnight.
    #[must_use]
    pub fn with_window(self, window: Window, now: Timestamp, zone: &TimeZone) -> Account {
        let current = self.window == Window::Day && self.resets_at.is_some_and(|at| now < at);
        let account = match (window, current) {
            (Window::Day, true) => {
                let (start, end) = day_bounds(now, zone);
                return Account {
                    period_start: start,
                    resets_at: Some(end),
                    ..self
                };
            }
            (window, _) => Account {
                window,
                resets_at: None,
                ..self
            },
        };
        account.as_of(now, zone)
    }

    /// Whether `amount` can be reserved now, later, or never under the present limit.
    pub fn room_for(&self, amount: u64) -> Room {
        let limit = self.limit.unwrap_or(AMOUNT_MAX);
        let spent_and = |more: u64| self.spent.saturating_add(more).saturating_add(amount);
        match self.window {
            _ if spent_and(self.reserved) <= limit => Room::Now,
            Window::Day if amount <= limit => Room::Later(self.resets_at),
            Window::Total if spent_and(0) <= limit => Room::Later(None),
            Window::Day | Window::Total => Room::Never,
        }
    }

    /// Refusal of `amount`; none while it fits.
    pub fn refusal(&self, amount: u64) -> Option<Refusal> {
        let room = self.room_for(amount);
        if room == Room::Now {
            return None;
        }
        let limit = self.limit.unwrap_or(AMOUNT_MAX);
        Some(Refusal {
            scope: self.scope.clone(),
            metric: self.metric,
            asked: amount,
            left: limit.saturating_sub(self.spent.saturating_add(self.reserved)),
            limit,
            room,
            most: match self.window {
                Window::Day => limit,
                Window::Total => limit.saturating_sub(self.spent),
            },
        })
    }

    /// Reason why whatever needs `amount` waits; none while it fits. An amount that can never fit waits for a raise.
    pub fn wait_for(&self, amount: u64) -> Option<Wait> {
        let refusal = self.refusal(amount)?;
        Some(refusal.wait().unwrap_or_else(|| refusal.wait_until(None)))
    }

    /// Reserves `amount`.
    ///
    /// # Errors
    /// [`Refusal`] when less than that remains; the account is unchanged then.
    pub fn reserve(&mut self, amount: u64) -> Result<(), Refusal> {
        if let Some(refusal) = self.refusal(amount) {
            return Err(refusal);
        }
        self.reserved = self.reserved.saturating_add(amount);
        Ok(())
    }

    /// Ends a reservation of `reserved` and charges `actual`.
    ///
    /// # Panics
    /// When more is given back than is held: the ledger is wrong then and must not go on.
    pub fn settle(&mut self, reserved: u64, actual: u64) {
        assert!(
            self.reserved >= reserved,
            "a reservation is settled exactly once"
        );
        self.reserved -= reserved;
        self.spent = self.spent.saturating_add(actual).min(AMOUNT_MAX);
    }

    /// The level that spending has reached since `before`, to be told once: a warning, or that nothing is left.
    pub fn level_reached(&self, before: BudgetState) -> Option<BudgetState> {
        let level = self.state();
        let told = matches!(level, BudgetState::Warning | BudgetState::Exhausted);
        (told && level > before).then_some(level)
    }
}

/// Midnight before and midnight after `now` in a time zone. A day may have 23 or 25 hours.
pub fn day_bounds(now: Timestamp, zone: &TimeZone) -> (Timestamp, Timestamp) {
    let instant = jiff::Timestamp::from_millisecond(now.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let local = instant.to_zoned(zone.clone());
    let start = local
        .start_of_day()
        .map_or(now, |z| Timestamp(z.timestamp().as_millisecond()));
    let end = local
        .tomorrow()
        .and_then(|z| z.start_of_day())
        .map_or(now, |z| Timestamp(z.timestamp().as_millisecond()));
    (start, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use abbey_model::Millis;

    fn account(limit: Option<u64>) -> Account {
        Account {
            scope: Scope::House,
            metric: Metric::Tokens,
            window: Window::Day,
            limit,
            warn_percent: 80,
            spent: 0,
            reserved: 0,
            period_start: Timestamp(0),
            resets_at: None,
        }
    }

    #[test]
    fn the_call_that_does_not_fit_is_refused_and_changes_nothing() {
        let mut a = account(Some(100));
        a.reserve(60).unwrap();
        let before = a.clone();
        let refusal = a.reserve(41).unwrap_err();
        assert_eq!((refusal.left, refusal.limit), (40, 100));
        assert_eq!(a, before);
        a.settle(60, 90);
        assert_eq!(a.state(), BudgetState::Warning);
        assert!(a.reserve(11).is_err());
        a.reserve(10).unwrap();
    }

    #[test]
    fn a_level_is_told_once_and_amounts_beyond_what_can_be_stored_are_refused() {
        let mut a = account(Some(100));
        let mut told = Vec::new();
        for spent in [50, 29, 1, 10, 10, 50] {
            let before = a.state();
            a.settle(0, spent);
            told.extend(a.level_reached(before));
        }
        assert_eq!(told, [BudgetState::Warning, BudgetState::Exhausted]);
        let mut unlimited = account(None);
        unlimited.reserve(u64::MAX / 4).unwrap();
        assert!(unlimited.reserve(u64::MAX / 2).is_err());
        unlimited.settle(u64::MAX / 4, u64::MAX);
        assert_eq!((unlimited.spent, unlimited.reserved), (AMOUNT_MAX, 0));
    }

    #[test]
    fn the_day_of_the_clock_change_has_its_own_length() {
        let zone = TimeZone::get("America/New_York").unwrap();
        // 2025-03-09 12:00 local: the day has 23 hours; 2025-11-02 has 25.
        let spring = Timestamp(
            "2025-03-09T16:00:00Z"
                .parse::<jiff::Timestamp>()
                .unwrap()
                .as_millisecond(),
        );
        let autumn = Timestamp(
            "2025-11-02T17:00:00Z"
                .parse::<jiff::Timestamp>()
                .unwrap()
                .as_millisecond(),
        );
        let hours = |(a, b): (Timestamp, Timestamp)| b.since(a).0 / 3_600_000;
        assert_eq!(hours(day_bounds(spring, &zone)), 23);
        assert_eq!(hours(day_bounds(autumn, &zone)), 25);
    }

    #[test]
    fn a_new_day_forgets_spend_but_not_open_reservations() {
        let zone = TimeZone::UTC;
        let now = Timestamp(86_400_000 * 3 + 5);
        let mut a = account(Some(100)).as_of(now, &zone);
        a.reserve(30).unwrap();
        a.settle(30, 30);
        a.reserve(20).unwrap();
        let same_day = a.clone().as_of(now + Millis(1000), &zone);
        assert_eq!(same_day.spent, 30);
        let next_day = a.as_of(now + Millis(86_400_000), &zone);
        assert_eq!((next_day.spent, next_day.reserved), (0, 20));
    }
}
