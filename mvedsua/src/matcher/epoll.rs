//! The data words of epoll registrations, which may be pointers and so differ between the two sides.

use std::collections::HashMap;
use std::sync::Arc;

use crate::dsu::Moved;

/// What was registered since the snapshot, and the translation of data words leader -> follower.
#[derive(Clone, Debug, Default)]
pub struct EpollData {
    /// (epoll descriptor, leader's data) -> follower's data, only where they differ.
    translation: HashMap<(i32, u64), u64>,
    /// (epoll descriptor, descriptor) -> what the follower registered, only where data differ.
    registered: HashMap<(i32, i32), Registration>,
    /// Objects that a transformer has moved: what was registered before it ran may point to them.
    moved: Arc<Moved>,
}

/// A registration whose data word differs between the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The event mask.
    pub events: u32,
    /// What the leader registered (and the shared instance holds).
    pub leader: u64,
    /// What the follower registered.
    pub follower: u64,
}

impl EpollData {
    /// Both sides made the same `epoll_ctl` that adds or changes `fd` in `epfd`.
    pub fn registered(&mut self, epfd: i32, fd: i32, registration: Registration) {
        let Registration {
            leader, follower, ..
        } = registration;
        if leader == follower {
            self.registered.remove(&(epfd, fd));
            if self.moved.follow(leader).is_some() {
                // A new object at an old address: this one is not meant.
                self.translation.insert((epfd, leader), leader);
            } else {
                self.translation.remove(&(epfd, leader));
            }
        } else {
            self.translation.insert((epfd, leader), follower);
            self.registered.insert((epfd, fd), registration);
        }
    }

    /// Both sides removed `fd` from `epfd`.
    pub fn removed(&mut self, epfd: i32, fd: i32) {
        if let Some(old) = self.registered.remove(&(epfd, fd)) {
            self.translation.remove(&(epfd, old.leader));
        }
    }

    /// The follower's data word for one of the leader's.
    #[must_use]
    pub fn follower_data(&self, epfd: i32, leader: u64) -> u64 {
        if self.translation.is_empty() && self.moved.is_empty() {
            return leader;
        }
        self.translation
            .get(&(epfd, leader))
            .copied()
            .or_else(|| self.moved.follow(leader))
            .unwrap_or(leader)
    }

    /// A transformer has moved these objects of the follower.
    pub fn objects_moved(&mut self, objects: Arc<Moved>) {
        self.moved = objects;
    }

    /// What an epoll instance of the leader holds now: registrations that were made before a
    /// transformer ran, and point to objects that it moved, count as differing from now on.
    pub fn holds(&mut self, epfd: i32, fd: i32, events: u32, leader: u64) {
        let follower = self.follower_data(epfd, leader);
        if follower != leader && !self.registered.contains_key(&(epfd, fd)) {
            self.registered(
                epfd,
                fd,
                Registration {
                    events,
                    leader,
                    follower,
                },
            );
        }
    }

    /// Objects have moved, so that [`EpollData::holds`] must be told what there is before a promotion.
    #[must_use]
    pub fn has_moved_objects(&self) -> bool {
        !self.moved.is_empty()
    }

    /// The registrations that hold another word on the follower's side: what must be registered
    /// anew when the follower is promoted.
    pub fn differing(&self) -> impl Iterator<Item = ((i32, i32), Registration)> {
        self.registered
            .iter()
            .map(|(key, registration)| (*key, *registration))
    }

    /// The same from the other side: after a promotion the old leader follows.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let mut reversed = Self::default();
        for ((epfd, fd), r) in self.differing() {
            let turned = Registration {
                events: r.events,
                leader: r.follower,
                follower: r.leader,
            };
            reversed.registered(epfd, fd, turned);
        }
        reversed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_words_are_translated_and_equal_ones_pass() {
        let mut epoll = EpollData::default();
        let both = |leader, follower| Registration {
            events: 1,
            leader,
            follower,
        };
        epoll.registered(5, 8, both(8, 8));
        epoll.registered(5, 9, both(0x1000, 0x2000));
        assert_eq!(epoll.follower_data(5, 8), 8);
        assert_eq!(epoll.follower_data(5, 0x1000), 0x2000);
        assert_eq!(epoll.follower_data(6, 0x1000), 0x1000, "another instance");
        assert_eq!(epoll.reversed().follower_data(5, 0x2000), 0x1000);
        epoll.removed(5, 9);
        assert_eq!(epoll.follower_data(5, 0x1000), 0x1000);
        assert_eq!(epoll.differing().count(), 0);
    }

    #[test]
    fn what_points_to_a_moved_object_follows_until_it_is_registered_anew() {
        let mut epoll = EpollData::default();
        let objects = [(0x1000, 0x9000, 8), (0x2000, 0xa000, 8)];
        epoll.objects_moved(Arc::new(Moved::new(Vec::new(), &objects)));
        assert_eq!(epoll.follower_data(5, 0x1000), 0x9000);
        assert_eq!(epoll.follower_data(5, 0x3000), 0x3000);
        let both = |leader, follower| Registration {
            events: 1,
            leader,
            follower,
        };
        epoll.registered(5, 7, both(0x1000, 0x1000));
        assert_eq!(epoll.follower_data(5, 0x1000), 0x1000, "a new object there");
        epoll.holds(5, 7, 1, 0x1000);
        epoll.holds(5, 8, 1, 0x2000);
        epoll.holds(5, 9, 1, 0x3000);
        let differing: Vec<_> = epoll.differing().collect();
        assert_eq!(differing, [((5, 8), both(0x2000, 0xa000))]);
        assert_eq!(epoll.reversed().follower_data(5, 0xa000), 0x2000);
    }
}
