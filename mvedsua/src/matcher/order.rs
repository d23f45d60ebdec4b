//! One queue per thread pair, and the global order over all of them.

use std::collections::VecDeque;

/// What the leader's threads did, per thread, with the place of each item in the global order.
///
/// A follower thread takes its items in its own order; it is its *turn* when no earlier item of
/// any thread is left, so that the order in which the leader's threads left their calls (and with
/// it mostly their lock order) is kept.
///
/// A place can be [kept](Order::keep) for items that come later: a rule decides about a call only when
/// it has seen what follows. An item can be *loose*: the follower may leave it out, so nobody waits for
/// it.
#[derive(Debug)]
pub struct Order<T> {
    lanes: Vec<Lane<T>>,
    /// The places from `first` on.
    places: VecDeque<Place>,
    first: u64,
    len: usize,
    loose: usize,
}

#[derive(Debug)]
struct Lane<T> {
    items: VecDeque<Entry<T>>,
    /// Places that are kept, in order.
    kept: VecDeque<u64>,
}

#[derive(Debug)]
struct Entry<T> {
    place: u64,
    item: T,
    loose: bool,
}

/// A place in the global order: whose it is, and what it waits for.
#[derive(Clone, Copy, Debug)]
struct Place {
    lane: u32,
    items: u32,
    kept: bool,
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self {
            lanes: Vec::new(),
            places: VecDeque::new(),
            first: 0,
            len: 0,
            loose: 0,
        }
    }
}

impl<T> Order<T> {
    /// Opens a queue for a thread pair and returns its number.
    pub fn open(&mut self) -> usize {
        self.lanes.push(Lane {
            items: VecDeque::new(),
            kept: VecDeque::new(),
        });
        self.lanes.len() - 1
    }

    /// Opens the queue `lane` again, which is empty, or the next one.
    pub fn open_again(&mut self, lane: usize) {
        if lane == self.lanes.len() {
            self.open();
        }
        debug_assert!(self.is_idle(lane));
    }

    /// True when a thread's queue is empty and no place is kept for it.
    #[must_use]
    pub fn is_idle(&self, lane: usize) -> bool {
        self.lanes[lane].items.is_empty() && self.lanes[lane].kept.is_empty()
    }

    /// Appends an item to a thread's queue, after everything so far in the global order.
    pub fn push(&mut self, lane: usize, item: T) {
        let place = self.new_place(lane, 1, false);
        self.lanes[lane].items.push_back(Entry {
            place,
            item,
            loose: false,
        });
        self.len += 1;
    }

    fn new_place(&mut self, lane: usize, items: u32, kept: bool) -> u64 {
        let place = self.first + self.places.len() as u64;
        let lane = lane as u32;
        self.places.push_back(Place { lane, items, kept });
        place
    }

    /// Keeps the next place in the global order for items of this thread that [`Order::fill`] brings.
    pub fn keep(&mut self, lane: usize) -> u64 {
        let place = self.new_place(lane, 0, true);
        self.lanes[lane].kept.push_back(place);
        place
    }

    /// Appends an item to a thread's queue at a place that was kept for it, or as soon after it as the
    /// items before it allow. Nobody waits for one that is `loose`.
    pub fn fill(&mut self, lane: usize, place: u64, item: T, loose: bool) {
        let last = self.lanes[lane].items.back().map_or(0, |e| e.place);
        let mut place = place.max(last);
        if loose {
            self.loose += 1;
        } else {
            let at = place
                .checked_sub(self.first)
                .and_then(|at| usize::try_from(at).ok());
            match at.and_then(|at| self.places.get_mut(at)) {
                Some(slot) if slot.lane == lane as u32 => slot.items += 1,
                _ => place = self.new_place(lane, 1, false),
            }
            self.len += 1;
        }
        self.lanes[lane]
            .items
            .push_back(Entry { place, item, loose });
    }

    /// Nothing more comes at the places that were kept for this thread before `place` (all of them
    /// without one).
    pub fn settle(&mut self, lane: usize, before: Option<u64>) {
        while let Some(&place) = self.lanes[lane].kept.front()
            && before.is_none_or(|before| place < before)
        {
            self.lanes[lane].kept.pop_front();
            self.let_go(place);
        }
        self.advance();
    }

    /// Nobody waits any longer for what comes at kept places; it will have its place when it comes.
    /// True if anybody did.
    pub fn wait_no_longer(&mut self) -> bool {
        if !self.places.front().is_some_and(|place| place.kept) {
            return false;
        }
        for lane in 0..self.lanes.len() {
            while let Some(place) = self.lanes[lane].kept.pop_front() {
                self.let_go(place);
            }
        }
        self.advance();
        true
    }

    fn let_go(&mut self, place: u64) {
        if let Some(at) = place.checked_sub(self.first)
            && let Some(slot) = self.places.get_mut(at as usize)
        {
            slot.kept = false;
        }
    }

    fn advance(&mut self) {
        while self.places.front().is_some_and(|p| p.items == 0 && !p.kept) {
            self.places.pop_front();
            self.first += 1;
        }
    }

    /// The next item of a thread, and whether it is its turn.
    #[must_use]
    pub fn next(&self, lane: usize) -> Option<(&T, bool)> {
        let entry = self.lanes[lane].items.front()?;
        Some((&entry.item, entry.loose || entry.place <= self.first))
    }

    /// The next item of a thread, to be changed in place.
    pub fn next_mut(&mut self, lane: usize) -> Option<&mut T> {
        Some(&mut self.lanes[lane].items.front_mut()?.item)
    }

    /// True when the next item of a thread is loose.
    #[must_use]
    pub fn is_loose(&self, lane: usize) -> bool {
        self.lanes[lane].items.front().is_some_and(|e| e.loose)
    }

    /// The first item of a thread that is not loose.
    #[must_use]
    pub fn first_due(&self, lane: usize) -> Option<&T> {
        let mut items = self.lanes[lane].items.iter();
        items.find(|entry| !entry.loose).map(|entry| &entry.item)
    }

    /// True when any item is loose.
    #[must_use]
    pub fn has_loose(&self) -> bool {
        self.loose > 0
    }

    /// The item `n` places after the next one of a thread.
    #[must_use]
    pub fn nth(&self, lane: usize, n: usize) -> Option<&T> {
        self.lanes[lane].items.get(n).map(|entry| &entry.item)
    }

    /// The last item of a thread.
    pub fn last_mut(&mut self, lane: usize) -> Option<&mut T> {
        self.lanes[lane]
            .items
            .back_mut()
            .map(|entry| &mut entry.item)
    }

    /// Takes the next item of a thread.
    pub fn take(&mut self, lane: usize) -> Option<T> {
        let entry = self.lanes[lane].items.pop_front()?;
        Some(self.taken(entry))
    }

    /// Takes the last item of a thread back, as if it had not been pushed.
    pub fn take_last(&mut self, lane: usize) -> Option<T> {
        let entry = self.lanes[lane].items.pop_back()?;
        Some(self.taken(entry))
    }

    fn taken(&mut self, entry: Entry<T>) -> T {
        if entry.loose {
            self.loose -= 1;
        } else {
            self.places[(entry.place - self.first) as usize].items -= 1;
            self.len -= 1;
            self.advance();
        }
        entry.item
    }

    /// The queue whose turn it is.
    #[must_use]
    pub fn turn(&self) -> Option<usize> {
        self.places.front().map(|place| place.lane as usize)
    }

    /// Items of all threads that wait; loose ones do not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
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

    #[test]
    fn a_kept_place_is_waited_for_until_it_is_settled() {
        let mut order = Order::default();
        let (a, b) = (order.open(), order.open());
        let first = order.keep(a);
        let second = order.keep(a);
        order.push(b, "b");
        assert_eq!(order.turn(), Some(a));
        assert_eq!(order.len(), 1, "a kept place is no item");
        order.fill(a, first, "a", false);
        order.fill(a, first, "inserted", false);
        order.settle(a, Some(second));
        assert_eq!(order.take(a), Some("a"));
        assert_eq!(order.next(a), Some((&"inserted", true)));
        assert_eq!(order.take(a), Some("inserted"));
        assert_eq!(order.turn(), Some(a), "the second place is still kept");
        order.settle(a, None);
        assert_eq!(order.turn(), Some(b));
    }

    #[test]
    fn what_comes_after_the_patience_has_its_place_when_it_comes() {
        let mut order = Order::default();
        let (a, b) = (order.open(), order.open());
        let place = order.keep(a);
        order.push(b, 1);
        assert!(order.wait_no_longer());
        assert!(!order.wait_no_longer());
        assert_eq!(order.turn(), Some(b));
        order.fill(a, place, 2, false);
        order.settle(a, None);
        assert_eq!((order.take(b), order.turn()), (Some(1), Some(a)));
        assert_eq!(order.take(a), Some(2));
        assert!(order.is_empty() && order.turn().is_none());
    }

    #[test]
    fn nobody_waits_for_a_loose_item() {
        let mut order = Order::default();
        let (a, b) = (order.open(), order.open());
        let place = order.keep(a);
        order.push(b, 1);
        order.fill(a, place, 2, true);
        order.settle(a, None);
        assert_eq!(order.turn(), Some(b));
        assert!(order.is_loose(a) && order.has_loose());
        assert_eq!((order.len(), order.next(a)), (1, Some((&2, true))));
        // What follows a loose item in its thread still has its turn.
        order.push(a, 3);
        assert_eq!((order.take(b), order.turn()), (Some(1), Some(a)));
        assert_eq!((order.take(a), order.take(a)), (Some(2), Some(3)));
        assert!(order.is_empty() && !order.has_loose());
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
