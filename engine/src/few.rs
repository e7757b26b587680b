//! A list that is nearly always empty or of one item, and allocates nothing then.
//!
//! A lock has one grant a holder, a session one lock and one wait, a key one transaction that reads it and one that
//! writes it: with a vector for each of these, an uncontended lock would cost three allocations, and a key two.

/// A list in the order of insertion.
#[derive(Debug, Clone, Default)]
pub(crate) enum Few<T> {
    #[default]
    None,
    One(T),
    Many(Vec<T>),
}

impl<T> Few<T> {
    pub(crate) fn push(&mut self, item: T) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(item),
            Self::One(first) => Self::Many(vec![first, item]),
            Self::Many(mut items) => {
                items.push(item);
                Self::Many(items)
            }
        };
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(item) => std::slice::from_ref(item),
            Self::Many(items) => items,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::None => &mut [],
            Self::One(item) => std::slice::from_mut(item),
            Self::Many(items) => items,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Removes an item that fits, the last one if there are several: what came last usually goes first.
    pub(crate) fn remove(&mut self, fits: impl FnMut(&T) -> bool) -> Option<T> {
        let at = self.as_slice().iter().rposition(fits)?;
        match self {
            Self::None => None,
            Self::One(_) => match std::mem::take(self) {
                Self::One(item) => Some(item),
                Self::None | Self::Many(_) => None,
            },
            Self::Many(items) => Some(items.remove(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_its_order_and_gives_up_the_last_that_fits() {
        let mut few = Few::default();
        assert!(few.is_empty());
        assert_eq!(few.remove(|_| true), None);
        for item in [1, 2, 3, 2] {
            few.push(item);
        }
        assert_eq!(few.as_slice(), [1, 2, 3, 2]);
        assert_eq!(few.remove(|item| *item == 2), Some(2));
        assert_eq!(few.as_slice(), [1, 2, 3]);
        few.as_mut_slice()[0] = 9;
        assert_eq!(
            (few.remove(|_| true), few.remove(|_| true)),
            (Some(3), Some(2))
        );
        assert_eq!((few.remove(|item| *item == 1), few.len()), (None, 1));
        assert_eq!((few.remove(|_| true), few.len()), (Some(9), 0));
    }

    #[test]
    fn one_item_needs_no_allocation() {
        let mut few = Few::default();
        few.push(5);
        assert!(matches!(few, Few::One(5)));
        assert_eq!(few.remove(|_| true), Some(5));
        assert!(matches!(few, Few::None));
    }
}
