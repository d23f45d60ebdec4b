//! One queue per thread pair, and the global order over all of them.

use std::collections::VecDeque;

/// What the leader's threads did, per thread, with the place of each item in the global order.
///
/// A follower thread takes its items in its own order; it is its *turn* when no earlier item of
/// any thread is left, so that the order in which the leader's threads left their calls (and with
/// it mostly their lock order) is kept.
#[derive(Debug)]
pub struct Order<T> {
    lanes: Vec<VecDeque<(u64, T)>>,
    /// For each place from `first` on: whose it is, `None` once it was taken.
    places: VecDeque<Option<usize>>,
    first: u64,
    len: usize,
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self {
            lanes: Vec::new(),
            places: VecDeque::new(),
            first: 0,
            len: 0,
        }
    }
}

impl<T> Order<T> {
    /// Opens a queue for a thread pair and returns its number.
    pub fn open(&mut self) -> usize {
        self.lanes.push(VecDeque::new());
        self.lanes.len() - 1
    }

    /// Appends an item to a thread's queue, after everything so far in the global order.
    pub fn push(&mut self, lane: usize, item: T) {
        self.lanes[lane].push_back((self.first + self.places.len() as u64, item));
        self.places.push_back(Some(lane));
        self.len += 1;
    }

    /// The next item of a thread, and whether it is its turn.
    #[must_use]
    pub fn next(&self, lane: usize) -> Option<(&T, bool)> {
        self.lanes[lane]
            .front()
            .map(|(place, item)| (item, *place == self.first))
    }

    /// The item `n` places after the next one of a thread.
    #[must_use]
    pub fn nth(&self, lane: usize, n: usize) -> Option<&T> {
        self.lanes[lane].get(n).map(|(_, item)| item)
    }

    /// The last item of a thread.
    pub fn last_mut(&mut self, lane: usize) -> Option<&mut T> {
        self.lanes[lane].back_mut().map(|(_, item)| item)
    }

    /// Takes the next item of a thread.
    pub fn take(&mut self, lane: usize) -> Option<T> {
        let (place, item) = self.lanes[lane].pop_front()?;
        self.mark(place);
        Some(item)
    }

    /// Takes the last item of a thread back, as if it had not been pushed.
    pub fn take_last(&mut self, lane: usize) -> Option<T> {
        let (place, item) = self.lanes[lane].pop_back()?;
        self.mark(place);
        Some(item)
    }

    fn mark(&mut self, place: u64) {
        self.places[(place - self.first) as usize] = None;
        self.len -= 1;
        while self.places.front() == Some(&None) {
            self.places.pop_front();
            self.first += 1;
        }
    }

    /// The queue whose turn it is.
    #[must_use]
    pub fn turn(&self) -> Option<usize> {
        self.places.front().copied().flatten()
    }

    /// Items of all threads that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_turn_follows_the_pushes() {
        let mut order = Order::default();
        let (a, b) = (order.open(), order.open());
        order.push(a, 1);
        order.push(b, 2);
        order.push(a, 3);
        assert_eq!(order.next(b), Some((&2, false)));
        assert_eq!(order.take(b), Some(2), "relaxed: out of turn");
        assert_eq!(order.next(a), Some((&1, true)));
        assert_eq!(order.take(a), Some(1));
        assert_eq!(
            order.next(a),
            Some((&3, true)),
            "the relaxed one does not come again"
        );
        assert_eq!(order.take_last(a), Some(3));
        assert!(order.is_empty());
    }

    proptest! {
        #[test]
        fn taking_in_turn_gives_back_the_pushes(lanes in prop::collection::vec(0usize..4, 0..200)) {
            let mut order = Order::default();
            for _ in 0..4 {
                order.open();
            }
            for (place, lane) in lanes.iter().enumerate() {
                order.push(*lane, place);
            }
            let mut taken = Vec::new();
            while let Some(lane) = order.turn() {
                prop_assert!(order.next(lane).expect("its turn").1);
                taken.push((lane, order.take(lane).expect("its turn")));
            }
            let pushed: Vec<_> = lanes.iter().copied().enumerate().map(|(p, l)| (l, p)).collect();
            prop_assert_eq!(taken, pushed);
            prop_assert!(order.is_empty());
        }
    }
}
