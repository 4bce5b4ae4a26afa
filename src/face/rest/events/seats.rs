//! How many streams of events may be open, in all and for one user.

use std::collections::HashMap;
use std::sync::Arc;

use orch_domain::Error;
use orch_domain::name::UserId;
use parking_lot::Mutex;

const MAX_OPEN: usize = 256;
/// So that one user leaves room for others.
const MAX_OF_USER: usize = 64;

#[derive(Default)]
pub(crate) struct Seats {
    /// Invariant: no entry is 0.
    taken: Mutex<HashMap<UserId, usize>>,
}

/// Given back when dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    user: UserId,
}

impl Seats {
    pub(super) fn take(self: &Arc<Seats>, user: &UserId) -> Result<Seat, Error> {
        let mut taken = self.taken.lock();
        let of_user = taken.get(user).copied().unwrap_or(0);
        if MAX_OPEN <= taken.values().sum() || MAX_OF_USER <= of_user {
            return Err(Error::TooManyRequests {
                message: format!(
                    "there are as many streams of events as may be ({MAX_OF_USER} for a user, {MAX_OPEN} for all); close \
                     one, then try again"
                ),
                retry_after_ms: 5000,
            });
        }
        taken.insert(user.clone(), of_user + 1);
        Ok(Seat { seats: self.clone(), user: user.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock();
        if let Some(n) = taken.get_mut(&self.user) {
            *n -= 1;
            if *n == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_leaves_room_for_others_and_seats_come_back() {
        let seats = Arc::<Seats>::default();
        let user = |n: usize| UserId::try_new(format!("u{n}")).unwrap();
        let of_one: Vec<Seat> = (0..MAX_OF_USER).map(|_| seats.take(&user(0)).unwrap()).collect();
        assert!(seats.take(&user(0)).is_err());
        let of_others: Vec<Seat> =
            (MAX_OF_USER..MAX_OPEN).map(|n| seats.take(&user(n)).unwrap()).collect();
        assert!(seats.take(&user(1)).is_err());
        drop(of_one);
        assert!(seats.take(&user(0)).is_ok());
        drop(of_others);
        assert!(seats.taken.lock().is_empty());
    }
}
