//! Who waits for whom, in a plan that may be wrong.

/// Places of the steps that each step waits for; none of them is its own.
pub(super) type Edges = Vec<Vec<usize>>;

/// Each step behind all that it waits for. `cycle` gets the steps of each circle, each waiting for the next and the last
/// for the first; with any, the order means nothing.
pub(super) fn order(edges: &Edges, mut cycle: impl FnMut(&[usize])) -> Vec<usize> {
    #[derive(Clone, Copy)]
    enum Mark {
        New,
        /// At this place of the path.
        OnPath(usize),
        Done,
    }
    let mut marks = vec![Mark::New; edges.len()];
    let mut order = Vec::with_capacity(edges.len());
    // Not recursive: a chain may be as long as the plan.
    let mut path: Vec<usize> = Vec::new();
    let mut next: Vec<usize> = Vec::new();
    for start in 0..edges.len() {
        if !matches!(marks[start], Mark::New) {
            continue;
        }
        marks[start] = Mark::OnPath(0);
        path.push(start);
        next.push(0);
        while let (Some(&at), Some(edge)) = (path.last(), next.last_mut()) {
            match edges[at].get(*edge) {
                None => {
                    marks[at] = Mark::Done;
                    order.push(at);
                    path.pop();
                    next.pop();
                }
                Some(&to) => {
                    *edge += 1;
                    match marks[to] {
                        Mark::New => {
                            marks[to] = Mark::OnPath(path.len());
                            path.push(to);
                            next.push(0);
                        }
                        Mark::OnPath(from) => cycle(&path[from..]),
                        Mark::Done => {}
                    }
                }
            }
        }
    }
    order
}

/// For each step how many are in the longest chain that ends with it.
pub(super) fn levels(edges: &Edges, order: &[usize]) -> Vec<usize> {
    let mut levels = vec![0; edges.len()];
    for &at in order {
        levels[at] = 1 + edges[at].iter().map(|it| levels[*it]).max().unwrap_or(0);
    }
    levels
}

/// Answers who waits for whom over others.
pub(super) struct Ancestors<'a> {
    edges: &'a Edges,
    levels: &'a [usize],
    /// Edges that may still be gone along.
    n_left: usize,
    seen: Vec<usize>,
    n_asked: usize,
}

impl<'a> Ancestors<'a> {
    /// `n_most`: edges that are gone along for all questions together.
    pub(super) fn new(edges: &'a Edges, levels: &'a [usize], n_most: usize) -> Ancestors<'a> {
        Ancestors { edges, levels, n_left: n_most, seen: vec![0; edges.len()], n_asked: 0 }
    }

    /// Whether `of` waits for `step`. None: it would take too long to find out.
    pub(super) fn has(&mut self, of: usize, step: usize) -> Option<bool> {
        self.n_asked += 1;
        let mut open = vec![of];
        while let Some(at) = open.pop() {
            for &next in &self.edges[at] {
                if next == step {
                    return Some(true);
                }
                self.n_left = self.n_left.checked_sub(1)?;
                // Whatever is not above it cannot lead to it.
                if self.levels[step] < self.levels[next] && self.seen[next] != self.n_asked {
                    self.seen[next] = self.n_asked;
                    open.push(next);
                }
            }
        }
        Some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycles(edges: &Edges) -> Vec<Vec<usize>> {
        let mut found = Vec::new();
        order(edges, |it| found.push(it.to_vec()));
        found
    }

    #[test]
    fn each_circle_is_told_once() {
        assert_eq!(cycles(&vec![vec![1], vec![2], vec![0]]), [[0, 1, 2]]);
        assert_eq!(
            cycles(&vec![vec![1], vec![2, 0], vec![3], vec![1]]),
            [vec![1, 2, 3], vec![0, 1]]
        );
        assert_eq!(cycles(&vec![vec![1], vec![0], vec![3], vec![2]]), [[0, 1], [2, 3]]);
        assert!(cycles(&vec![vec![1, 2], vec![2], vec![]]).is_empty());
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let n = 200_000;
        let edges: Edges =
            (0..n).map(|it| if it + 1 < n { vec![it + 1] } else { vec![] }).collect();
        let order = order(&edges, |_| panic!("there is no circle"));
        assert_eq!(levels(&edges, &order)[0], n);
    }

    #[test]
    fn ancestors_are_found_over_others_and_within_a_budget() {
        let edges: Edges = vec![vec![], vec![0], vec![1], vec![0], vec![3, 2]];
        let order = order(&edges, |_| {});
        let levels = levels(&edges, &order);
        let mut ancestors = Ancestors::new(&edges, &levels, 100);
        assert_eq!(ancestors.has(4, 0), Some(true));
        assert_eq!(ancestors.has(4, 1), Some(true));
        assert_eq!(ancestors.has(2, 3), Some(false));
        assert_eq!(ancestors.has(0, 4), Some(false));
        assert_eq!(Ancestors::new(&edges, &levels, 0).has(2, 3), None);
    }
}
