//! How a service is held between updates: not at all, or, once it was promoted, traced with its
//! filter suspended.

use std::sync::Arc;

use super::rollback::{pass, stop_side};
use super::side::{Side, Why};
use crate::sys::ptrace;
use crate::sys::seccomp::Listener;
use crate::tracee::TraceeError;
use crate::tracee::standstill::Patience;
use crate::tracee::thread::Stopped;

/// How the service is held between updates.
pub(super) enum Home {
    /// Not at all: nothing is installed.
    Bare(i32),
    /// It was promoted once: its filter cannot be removed and is suspended by tracing it.
    Kept(Kept),
}

/// A promoted process.
pub(super) struct Kept {
    pub(super) side: Side,
    listener: Arc<Listener>,
    /// The listener of the version before, if that was a promoted process too: it will follow
    /// through it again.
    pub(super) previous: Option<Arc<Listener>>,
}

impl Home {
    pub(super) fn pid(&self) -> i32 {
        match self {
            Self::Bare(pid) => *pid,
            Self::Kept(kept) => kept.side.pid,
        }
    }

    /// Children of a promoted process live: they go on only as long as they are traced.
    pub(super) fn has_wards(&self) -> bool {
        matches!(self, Self::Kept(kept) if !kept.side.wards.pids().is_empty())
    }

    pub(super) fn listener(&self) -> Option<Arc<Listener>> {
        match self {
            Self::Bare(_) => None,
            Self::Kept(kept) => Some(kept.listener.clone()),
        }
    }
}

impl Kept {
    pub(super) fn new(side: Side, listener: Arc<Listener>) -> Self {
        Self {
            side,
            listener,
            previous: None,
        }
    }

    /// Stops all its threads for a snapshot and hands them over.
    ///
    /// # Errors
    /// When a signal has stopped it, or one of them does not stop soon; they all go on then.
    pub(super) fn stop_all(&mut self) -> crate::tracee::Result<Vec<Stopped>> {
        let mut stood = stop_side(&mut self.side, Patience::Short);
        if self.side.is_stopped_by_a_signal() {
            stood = Err(TraceeError::Halted(self.side.pid));
        }
        if let Err(error) = stood {
            // One that is gone is reported as such.
            let _ = self.side.leave_calls_to_kernel();
            self.side.resume_all_into_interrupt();
            return Err(error);
        }
        Ok(self.side.take_stopped(Why::Asked))
    }

    /// Between updates every signal and birth passes.
    pub(super) fn reports(&mut self) {
        while let Ok(Some((tid, wait))) = ptrace::look() {
            pass(&mut self.side, tid, wait);
        }
    }
}
