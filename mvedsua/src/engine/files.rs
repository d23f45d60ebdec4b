//! Files that the follower maps into its memory.
//!
//! Memory is each side's own, so the follower makes its mappings itself; but its descriptors are
//! virtual. The file behind a number is found again by its name and opened anew, for reading only.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mvedsua_common::spec::Arg;
use mvedsua_common::table;

use super::following::{Following, Stop};
use super::replay::record_of;
use super::roles::roles;
use crate::follower::Arrival;
use crate::tracee::inspect;

/// A regular file that the leader has, or had, under a descriptor.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    /// Absolute, as the leader sees it.
    path: PathBuf,
    /// Device and inode, known for what was open at the snapshot.
    identity: Option<(u64, u64)>,
}

/// The regular files among a process's descriptors.
pub(super) fn open_files(pid: i32) -> HashMap<i32, Opened> {
    let mut files = HashMap::new();
    for (fd, _) in inspect::descriptors(pid).unwrap_or_default() {
        let link = format!("/proc/{pid}/fd/{fd}");
        let Ok(path) = std::fs::read_link(&link) else {
            continue;
        };
        // Sockets, pipes and the like are "kind:[number]".
        if path.is_absolute()
            && let Ok(file) = std::fs::metadata(&link)
            && (file.is_file() || file.is_dir())
        {
            files.insert(
                fd,
                Opened {
                    path,
                    identity: Some((file.dev(), file.ino())),
                },
            );
        }
    }
    files
}

impl Following {
    /// A local call is notified only when it maps a file: gives the file to the follower under the
    /// number that it uses, and lets it make the call.
    ///
    /// # Errors
    /// When the file cannot be found again, or the mapping would be shared and writable.
    pub(super) fn map_file(&mut self, index: usize, arrival: &Arrival) -> Result<(), Stop> {
        let pair = self.lanes[index].pair;
        let [_, _, protection, flags, fd, _] = arrival.call.args;
        // Anonymous memory needs no descriptor, whatever stands in that argument.
        if flags & libc::MAP_ANONYMOUS as u64 != 0 {
            return self.let_run(arrival);
        }
        let fd = fd as i32;
        let shared = flags & libc::MAP_TYPE as u64 != libc::MAP_PRIVATE as u64;
        if shared && protection & libc::PROT_WRITE as u64 != 0 {
            return Err(Stop::roll_back(format!(
                "the server maps descriptor {fd} shared and writable: what others write there is no \
                 system call and cannot be followed"
            )));
        }
        let Some(opened) = self.pairs[pair].opened.get(&fd).cloned() else {
            return Err(Stop::roll_back(format!(
                "the server maps descriptor {fd}, which is no file that was open at the snapshot or \
                 opened by name since"
            )));
        };
        let file = self.reopen(pair, fd, &opened).ok_or_else(|| {
            Stop::roll_back(format!(
                "the server maps {} (descriptor {fd}), which cannot be opened again for the follower",
                opened.path.display()
            ))
        })?;
        // Under this number it no longer has what it may have been given for a promotion.
        self.pairs[pair].gifts.remove(&fd);
        self.listener
            .install_fd(arrival.id, file.as_fd(), fd, true)
            .map_err(|e| {
                Stop::roll_back(format!(
                    "giving {} to the follower: {e}",
                    opened.path.display()
                ))
            })?;
        self.let_run(arrival)
    }

    /// By its name, or if that is gone or another file's now, through the leader's descriptor. One
    /// that was opened since the snapshot is only known by name.
    fn reopen(&self, pair: usize, fd: i32, opened: &Opened) -> Option<File> {
        let pid = self.pairs[pair].leader.pid;
        let same = |file: &File| {
            opened.identity.is_none_or(|identity| {
                file.metadata()
                    .is_ok_and(|found| (found.dev(), found.ino()) == identity)
            })
        };
        let by_name = format!("/proc/{pid}/root{}", opened.path.display());
        let file = File::open(by_name).ok().filter(same);
        if file.is_some() || opened.identity.is_none() {
            return file;
        }
        File::open(format!("/proc/{pid}/fd/{fd}")).ok().filter(same)
    }

    /// Keeps track of the files behind descriptors, for [`Self::map_file`]; to be called with each
    /// call that was found equal, while it is still the next item of its thread.
    pub(super) fn note_file(&mut self, index: usize) {
        let pair = self.lanes[index].pair;
        let Some(record) = self
            .order
            .next(index)
            .and_then(|(item, _)| record_of(&self.recorder, &self.fetched, item))
        else {
            return;
        };
        let header = record.header;
        let args = header.args;
        if header.nr == roles().close {
            self.pairs[pair].opened.remove(&(args[0] as i32));
            return;
        }
        if header.nr == roles().close_range {
            self.pairs[pair]
                .opened
                .retain(|fd, _| !(args[0] as u32..=args[1] as u32).contains(&(*fd as u32)));
            return;
        }
        let Some(spec) = table::syscall(header.nr).filter(|spec| spec.returns_fd(&args)) else {
            return;
        };
        let fd = header.ret as i32;
        if header.ret < 0 {
            return;
        }
        let Some(at) = spec.args.iter().position(|arg| *arg == Arg::Path) else {
            // A duplicate, or something that is no file.
            let duplicate = (spec.args[0] == Arg::Fd)
                .then(|| self.pairs[pair].opened.get(&(args[0] as i32)).cloned())
                .flatten();
            match duplicate {
                Some(file) => self.pairs[pair].opened.insert(fd, file),
                None => self.pairs[pair].opened.remove(&fd),
            };
            return;
        };
        let name = record
            .data(at as u8)
            .and_then(|bytes| bytes.split(|byte| *byte == 0).next());
        let path = name
            .and_then(|name| std::str::from_utf8(name).ok())
            .and_then(|name| {
                let folder = if Path::new(name).is_absolute() {
                    PathBuf::from("/")
                } else if at == 0 || args[0] as i32 == libc::AT_FDCWD {
                    std::fs::read_link(format!("/proc/{}/cwd", self.pairs[pair].leader.pid)).ok()?
                } else {
                    self.pairs[pair].opened.get(&(args[0] as i32))?.path.clone()
                };
                Some(folder.join(name))
            });
        match path {
            Some(path) => self.pairs[pair].opened.insert(
                fd,
                Opened {
                    path,
                    identity: None,
                },
            ),
            None => self.pairs[pair].opened.remove(&fd),
        };
    }
}
