//! LSNs that never happened: what a crash has left of some directories beyond the first LSN that another one had lost.

use crate::ids::Lsn;

/// Ranges of LSNs that never happened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Voids {
    /// Everything above the first and up to the second, in rising order, apart from each other and not empty.
    ranges: Vec<(Lsn, Lsn)>,
}

impl Voids {
    /// These ranges; `None` if they are not in order.
    #[must_use]
    pub fn new(ranges: Vec<(Lsn, Lsn)>) -> Option<Self> {
        let mut reached = None;
        for (after, through) in &ranges {
            if reached.is_some_and(|reached| reached >= *after) || after >= through {
                return None;
            }
            reached = Some(*through);
        }
        Some(Self { ranges })
    }

    /// The ranges, in order: above the first, up to the second.
    #[must_use]
    pub fn ranges(&self) -> &[(Lsn, Lsn)] {
        &self.ranges
    }

    /// Adds what is above `after` and up to `through`.
    ///
    /// # Panics
    ///
    /// Panics if that is nothing, or not behind all others.
    pub fn add(&mut self, after: Lsn, through: Lsn) {
        assert!(
            after < through,
            "nothing is void above {after} up to {through}"
        );
        match self.ranges.last_mut() {
            Some((_, last)) if *last == after => *last = through,
            Some((_, last)) if *last > after => panic!("LSN {last} is void already"),
            _ => self.ranges.push((after, through)),
        }
    }

    /// Forgets what is not above `after`: nobody reads there any more.
    pub fn forget(&mut self, after: Lsn) {
        self.ranges.retain(|(_, through)| *through > after);
    }

    /// Whether this LSN never happened.
    #[must_use]
    pub fn contains(&self, lsn: Lsn) -> bool {
        let next = self.ranges.partition_point(|(_, through)| *through < lsn);
        self.ranges.get(next).is_some_and(|(after, _)| *after < lsn)
    }

    /// The LSN that follows `lsn` among those that can have happened.
    #[must_use]
    pub fn next(&self, lsn: Lsn) -> Lsn {
        let next = lsn.next();
        let range = self.ranges.partition_point(|(_, through)| *through < next);
        match self.ranges.get(range) {
            Some((after, through)) if *after < next => through.next(),
            _ => next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voids(ranges: &[(u64, u64)]) -> Voids {
        let ranges = ranges
            .iter()
            .map(|(after, through)| (Lsn(*after), Lsn(*through)));
        Voids::new(ranges.collect()).expect("they are in order")
    }

    #[test]
    fn an_lsn_is_void_above_the_first_and_up_to_the_second() {
        let voids = voids(&[(3, 5), (7, 8)]);
        let found: Vec<_> = (1..=10).filter(|lsn| voids.contains(Lsn(*lsn))).collect();
        assert_eq!(found, [4, 5, 8]);
        let next: Vec<_> = (2..=8).map(|lsn| voids.next(Lsn(lsn)).0).collect();
        assert_eq!(next, [3, 6, 6, 6, 7, 9, 9]);
    }

    #[test]
    fn ranges_that_touch_become_one_and_old_ones_are_forgotten() {
        let mut grown = Voids::default();
        grown.add(Lsn(3), Lsn(5));
        grown.add(Lsn(5), Lsn(6));
        grown.add(Lsn(8), Lsn(9));
        assert_eq!(grown, voids(&[(3, 6), (8, 9)]));
        grown.forget(Lsn(5));
        assert_eq!(grown, voids(&[(3, 6), (8, 9)]));
        grown.forget(Lsn(6));
        assert_eq!(grown, voids(&[(8, 9)]));
    }

    #[test]
    fn ranges_out_of_order_are_refused() {
        for ranges in [
            vec![(3, 3)],
            vec![(3, 5), (5, 6)],
            vec![(3, 5), (4, 6)],
            vec![(8, 9), (3, 5)],
        ] {
            let ranges: Vec<_> = ranges.into_iter().map(|(a, b)| (Lsn(a), Lsn(b))).collect();
            assert_eq!(Voids::new(ranges.clone()), None, "{ranges:?}");
        }
    }
}
