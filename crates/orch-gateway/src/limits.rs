//! How often callers may call, and servers be called.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use orch_domain::Error;
use orch_domain::caller::Caller;
use orch_domain::name::{ApiKeyId, UserId};
use orch_domain::rate::{Bucket, Rate};
use parking_lot::Mutex;

/// Buckets of callers beyond which those that say nothing any more are dropped.
const MANY: usize = 1024;

/// Who uses up a rate: a user with one of its keys, so that one runaway program does not stop the others.
type Who = (UserId, Option<ApiKeyId>);

/// What is used of the rates. Invariant: a call that is refused uses up nothing.
pub struct Limiter {
    started: Instant,
    per_caller: Option<Rate>,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    callers: HashMap<Who, Bucket>,
    /// With the rate it was counted by: another begins afresh.
    servers: HashMap<String, (Rate, Bucket)>,
}

impl Limiter {
    pub fn new(per_caller: Option<Rate>) -> Limiter {
        Limiter { started: Instant::now(), per_caller, used: Mutex::default() }
    }

    /// Counts one request of `caller` to `server`, or says when to try again.
    pub fn admit(
        &self,
        caller: Option<&Caller>,
        server: &str,
        rate_of_server: Option<Rate>,
    ) -> Result<(), Error> {
        if self.per_caller.is_none() && rate_of_server.is_none() {
            return Ok(());
        }
        self.admit_at(caller, server, rate_of_server, self.started.elapsed())
    }

    fn admit_at(
        &self,
        caller: Option<&Caller>,
        server: &str,
        rate_of_server: Option<Rate>,
        now: Duration,
    ) -> Result<(), Error> {
        let mut used = self.used.lock();
        let Used { callers, servers } = &mut *used;
        if MANY < callers.len() {
            callers.retain(|_, it| !it.is_fresh(now));
        }
        let mut of_caller = match (caller, &self.per_caller) {
            (Some(it), Some(rate)) => {
                let who = (it.user.clone(), it.key.clone());
                Some((rate, callers.entry(who).or_default()))
            }
            _ => None,
        };
        if let Some((rate, bucket)) = &of_caller {
            refuse(bucket.wait(rate, now), "you call tools of servers more often than you may")?;
        }
        if let Some(rate) = &rate_of_server {
            if !servers.get(server).is_some_and(|(counted_by, _)| counted_by == rate) {
                servers.insert(server.to_owned(), (*rate, Bucket::default()));
            }
            if let Some((_, bucket)) = servers.get_mut(server) {
                let why = format!("the server `{server}` is called more often than it may be");
                refuse(bucket.wait(rate, now), &why)?;
                bucket.take(rate, now);
            }
        }
        if let Some((rate, bucket)) = &mut of_caller {
            bucket.take(rate, now);
        }
        Ok(())
    }
}

fn refuse(wait: Duration, why: &str) -> Result<(), Error> {
    if wait.is_zero() {
        return Ok(());
    }
    // Upwards: who comes back just then is let in.
    let retry_after_ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    Err(Error::TooManyRequests {
        message: format!("{why}; try again in {retry_after_ms} ms"),
        retry_after_ms,
    })
}

#[cfg(test)]
mod tests {
    use orch_domain::caller::Channel;
    use orch_domain::rate::RateWritten;

    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        let written = RateWritten {
            per_second: Some(per_second),
            burst: Some(burst),
            ..RateWritten::default()
        };
        written.rate().unwrap().unwrap()
    }

    fn caller(user: &str, key: Option<u64>) -> Caller {
        let user = UserId::try_new(user).unwrap();
        Caller { key: key.map(ApiKeyId::new), ..Caller::new(user, Vec::new(), Channel::Rest) }
    }

    #[test]
    fn callers_do_not_use_up_each_others_share_and_all_use_up_the_servers() {
        let limiter = Limiter::new(Some(rate(1, 2)));
        let (ann, bob) = (caller("ann", None), caller("bob", None));
        let anns_key = caller("ann", Some(1));
        let now = Duration::from_secs(5);
        let admit = |who: &Caller, server: &str, of_server| {
            limiter.admit_at(Some(who), server, of_server, now).is_ok()
        };
        assert!(admit(&ann, "a", None) && admit(&ann, "b", None));
        assert!(!admit(&ann, "a", None), "over all servers together");
        assert!(admit(&bob, "a", None) && admit(&anns_key, "a", None));
        let three = Some(rate(1, 3));
        assert!(admit(&bob, "c", three) && admit(&anns_key, "c", three));
        let late = now + Duration::from_secs(1);
        let cat = caller("cat", None);
        assert!(admit(&cat, "c", three));
        let refused = limiter.admit_at(Some(&cat), "c", three, now).unwrap_err();
        let Error::TooManyRequests { retry_after_ms: 1000, .. } = refused else {
            panic!("{refused}")
        };
        assert!(
            limiter.admit_at(Some(&cat), "c", three, late).is_ok(),
            "the refused used up nothing"
        );
        assert!(limiter.admit_at(Some(&cat), "d", three, late).is_ok(), "one of its own came back");
    }

    #[test]
    fn callers_that_are_gone_are_forgotten() {
        let limiter = Limiter::new(Some(rate(10, 1)));
        for n in 0..5000u64 {
            let now = Duration::from_millis(n);
            limiter.admit_at(Some(&caller("ann", Some(n))), "a", None, now).unwrap();
        }
        assert!(limiter.used.lock().callers.len() <= MANY + 1);
    }
}
