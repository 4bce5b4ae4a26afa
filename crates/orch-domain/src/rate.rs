//! How many calls there may be in a span of time. Plain arithmetic; whoever asks brings the time along.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// More in a second than any client sends; beyond it the arithmetic would lose its grain.
const MAX_PER_SECOND: u32 = 1_000_000;

/// As people write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RateWritten {
    /// Calls per second; no limit when neither this nor `per_minute` is given.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub per_second: Option<u32>,
    /// Calls per minute, in place of `per_second`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub per_minute: Option<u32>,
    /// Calls that may come at once; those of one second, or of ten where the rate is per minute, unless given.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
}

/// Calls that are let in one by one, so far apart, after a first few at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Between two calls in the long run.
    interval: Duration,
    /// Calls that may come at once.
    burst: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    #[error("give `per_second` or `per_minute`, not both")]
    Both,
    #[error("`burst` needs `per_second` or `per_minute` beside it")]
    BurstAlone,
    #[error("`{0}` is a whole number from 1 to 1000000")]
    OutOfRange(&'static str),
}

impl RateWritten {
    /// None: there is no limit.
    pub fn rate(&self) -> Result<Option<Rate>, RateError> {
        let given = [
            ("per_second", self.per_second),
            ("per_minute", self.per_minute),
            ("burst", self.burst),
        ];
        for (name, value) in given {
            if value.is_some_and(|it| !(1..=MAX_PER_SECOND).contains(&it)) {
                return Err(RateError::OutOfRange(name));
            }
        }
        let (span, n, usual_burst) = match (self.per_second, self.per_minute) {
            (Some(_), Some(_)) => return Err(RateError::Both),
            (None, None) if self.burst.is_some() => return Err(RateError::BurstAlone),
            (None, None) => return Ok(None),
            (Some(n), None) => (Duration::from_secs(1), n, n),
            (None, Some(n)) => (Duration::from_secs(60), n, (n / 6).max(1)),
        };
        Ok(Some(Rate { interval: span / n, burst: self.burst.unwrap_or(usual_burst) }))
    }
}

/// What was used of a rate lately. Fresh, all of the burst is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// When the calls let in so far would have ended, had they come one by one.
    busy_until: Duration,
}

impl Bucket {
    /// How long a call at `now` has to wait; zero: it may come. `now` is a time since any fixed moment.
    pub fn wait(&self, rate: &Rate, now: Duration) -> Duration {
        let ahead = rate.interval * (rate.burst - 1);
        self.busy_until.saturating_sub(now).saturating_sub(ahead)
    }

    /// Counts a call at `now`.
    pub fn take(&mut self, rate: &Rate, now: Duration) {
        self.busy_until = self.busy_until.max(now) + rate.interval;
    }

    /// Whether it says nothing any more that a fresh one would not.
    pub fn is_fresh(&self, now: Duration) -> bool {
        self.busy_until <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        let written = RateWritten {
            per_second: Some(per_second),
            burst: Some(burst),
            ..RateWritten::default()
        };
        written.rate().unwrap().unwrap()
    }

    #[test]
    fn a_burst_and_then_one_by_one() {
        let rate = rate(10, 3);
        let mut bucket = Bucket::default();
        let at = Duration::from_millis;
        for _ in 0..3 {
            assert_eq!(bucket.wait(&rate, at(5000)), Duration::ZERO);
            bucket.take(&rate, at(5000));
        }
        assert_eq!(bucket.wait(&rate, at(5000)), at(100));
        assert_eq!(bucket.wait(&rate, at(5060)), at(40));
        assert_eq!(bucket.wait(&rate, at(5100)), Duration::ZERO);
        assert!(!bucket.is_fresh(at(5299)) && bucket.is_fresh(at(5300)));
    }

    #[test]
    fn what_is_written_wrong_is_said() {
        let read = |text: &str| serde_json::from_str::<RateWritten>(text).unwrap().rate();
        assert_eq!(read("{}").unwrap(), None);
        assert_eq!(read(r#"{"per_second": 1, "per_minute": 1}"#), Err(RateError::Both));
        assert_eq!(read(r#"{"burst": 1}"#), Err(RateError::BurstAlone));
        assert_eq!(read(r#"{"per_second": 0}"#), Err(RateError::OutOfRange("per_second")));
        let per_minute = read(r#"{"per_minute": 60}"#).unwrap().unwrap();
        assert_eq!((per_minute.interval, per_minute.burst), (Duration::from_secs(1), 10));
    }

    proptest! {
        #[test]
        fn no_span_lets_in_more_than_its_share(
            per_second in 1u32..200, burst in 1u32..50, gaps in proptest::collection::vec(0u64..50, 1..300),
        ) {
            let rate = rate(per_second, burst);
            let (mut bucket, mut now, mut let_in) = (Bucket::default(), Duration::from_secs(9), Vec::new());
            for gap in gaps {
                now += Duration::from_millis(gap);
                if bucket.wait(&rate, now).is_zero() {
                    bucket.take(&rate, now);
                    let_in.push(now);
                }
            }
            for (i, first) in let_in.iter().enumerate() {
                for (n, last) in let_in[i..].iter().enumerate() {
                    let share = (*last - *first).as_nanos() / rate.interval.as_nanos() + u128::from(burst);
                    prop_assert!(n as u128 <= share, "{n} of {share}");
                }
            }
            // Who waits as long as was said is let in.
            let wait = bucket.wait(&rate, now);
            prop_assert!(bucket.wait(&rate, now + wait).is_zero());
        }
    }
}
