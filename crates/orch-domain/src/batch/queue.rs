//! What is ready to run, the longest way to the end first, in a queue for each tool: a tool without a free place holds up
//! nothing but itself.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Part;

/// Something that can be dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// A step, or the next element of one.
    Step(u32),
    /// A part that was tried before, and which attempt it is.
    Again(Part, u32),
}

#[derive(PartialEq, Eq)]
struct Entry {
    /// Microseconds from here to the end of the plan.
    remaining: u64,
    /// The order of arrival, which decides between equals.
    number: u64,
    ready: Ready,
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        self.remaining.cmp(&other.remaining).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Default)]
pub(super) struct Queue {
    by_class: Vec<BinaryHeap<Entry>>,
    n_arrived: u64,
    len: usize,
}

impl Queue {
    pub(super) fn push(&mut self, class: usize, remaining: u64, ready: Ready) {
        if self.by_class.len() <= class {
            self.by_class.resize_with(class + 1, BinaryHeap::new);
        }
        self.n_arrived += 1;
        self.by_class[class].push(Entry { remaining, number: self.n_arrived, ready });
        self.len += 1;
    }

    /// The best of what `may` run. Each class is asked at most once, and a class that may is given the place.
    pub(super) fn pop(&mut self, may: &mut dyn FnMut(usize) -> bool) -> Option<Ready> {
        if self.len == 0 {
            return None;
        }
        // The best class that was not asked yet: almost always the first one may.
        let mut below: Option<(u64, u64)> = None;
        loop {
            let best = self
                .by_class
                .iter()
                .enumerate()
                .filter_map(|(class, heap)| {
                    heap.peek().map(|it| (it.remaining, u64::MAX - it.number, class))
                })
                .filter(|it| below.is_none_or(|below| (it.0, it.1) < below))
                .max();
            let (remaining, number, class) = best?;
            if may(class) {
                self.len -= 1;
                return self.by_class[class].pop().map(|it| it.ready);
            }
            below = Some((remaining, number));
        }
    }

    pub(super) fn clear(&mut self) {
        self.by_class.clear();
        self.len = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}
