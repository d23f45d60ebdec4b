//! Files that the follower maps into its memory.
//!
//! Memory is each side's own, so the follower makes its mappings itself; but its descriptors are
//! virtual. The file behind a number is found again by its name and opened anew, for reading only.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mvedsua_common::spec::Arg;
use mvedsua_common::table;

use super::following::{Following, Stop};
use super::pair::Pair;
use super::replay::record_of;
use super::roles::roles;
use crate::follower::Arrival;
use crate::sys::open;
use crate::tracee::inspect;

/// A regular file, or a folder, that the leader has, or had, under a descriptor.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    /// Absolute, as seen from `root`.
    path: PathBuf,
    /// The root directory of who opened it, which may have changed since.
    root: Option<Arc<File>>,
    /// Device and inode, known for what was open at the snapshot.
    identity: Option<(u64, u64)>,
}

/// Where the names of files lead for a process, as far as its follower has got. The leader itself may be
/// elsewhere by then.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// Its root directory, unless it cannot be told.
    root: Option<Arc<File>>,
    /// Its working directory as seen from there, unless it cannot be told.
    folder: Option<PathBuf>,
}

impl Places {
    /// Those of a process that stands still.
    pub(super) fn of(pid: i32) -> Self {
        let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}")).ok();
        Self {
            root: File::open(format!("/proc/{pid}/root")).ok().map(Arc::new),
            // Both are told as the agent sees them.
            folder: link("cwd").zip(link("root")).and_then(|(folder, root)| {
                Some(Path::new("/").join(folder.strip_prefix(root).ok()?))
            }),
        }
    }

    /// A folder that a name leads to.
    fn enter(&mut self, name: Option<PathBuf>) {
        let from = self.folder.take();
        self.folder = name.and_then(|name| {
            if name.is_absolute() {
                Some(name)
            } else {
                Some(from?.join(name))
            }
        });
    }

    /// The folder that a name leads to is the root directory from here on.
    fn enter_root(&mut self, name: Option<PathBuf>) {
        let Some(name) = name else {
            *self = Self::default();
            return;
        };
        let path = if name.is_absolute() {
            Some(name.clone())
        } else {
            self.folder.as_ref().map(|folder| folder.join(&name))
        };
        let root = self.root.as_ref().zip(path);
        self.root = root.and_then(|(root, path)| open::within(root, &path).ok().map(Arc::new));
        // Else the working directory is where it was, which has no name any more.
        self.folder = (name == Path::new(".")).then(|| PathBuf::from("/"));
    }
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
                    root: None,
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

    /// What was open at the snapshot: by its name, or if that is gone or another file's now, through the
    /// leader's descriptor. One that was opened since is only known by name.
    fn reopen(&self, pair: usize, fd: i32, opened: &Opened) -> Option<File> {
        let Some(identity) = opened.identity else {
            return open::within(opened.root.as_ref()?, &opened.path).ok();
        };
        let pid = self.pairs[pair].leader.pid;
        let same = |file: &File| {
            file.metadata()
                .is_ok_and(|found| (found.dev(), found.ino()) == identity)
        };
        let by_name = format!("/proc/{pid}/root{}", opened.path.display());
        // Something else may have the name by now, a FIFO that nobody writes to.
        let named = |path: String| {
            let mut options = OpenOptions::new();
            options
                .read(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
            options.open(path).ok().filter(same)
        };
        named(by_name).or_else(|| named(format!("/proc/{pid}/fd/{fd}")))
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
        let named = |at: usize| {
            let bytes = record.data(at as u8)?.split(|byte| *byte == 0).next()?;
            Some(PathBuf::from(std::str::from_utf8(bytes).ok()?))
        };
        if [roles().chdir, roles().fchdir, roles().chroot].contains(&header.nr) {
            if header.ret != 0 {
                return;
            }
            let pair = &mut self.pairs[pair];
            if header.nr == roles().chroot {
                pair.places.enter_root(named(0));
            } else if header.nr == roles().chdir {
                pair.places.enter(named(0));
            } else {
                let folder = pair.opened.get(&(args[0] as i32)).cloned();
                // Only a folder that was opened by a name from the same root has one.
                let of_root = |opened: &Opened| match (&opened.root, &pair.places.root) {
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    _ => false,
                };
                pair.places.folder = folder.filter(of_root).map(|folder| folder.path);
            }
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
        let place = |pair: &Pair, name: &Path| -> Option<(PathBuf, Option<Arc<File>>)> {
            let places = &pair.places;
            if name.is_absolute() {
                return Some((name.into(), places.root.clone()));
            }
            if at == 0 || args[0] as i32 == libc::AT_FDCWD {
                return Some((places.folder.clone()?.join(name), places.root.clone()));
            }
            let folder = pair.opened.get(&(args[0] as i32))?;
            Some((folder.path.join(name), folder.root.clone()))
        };
        let found = named(at).and_then(|name| place(&self.pairs[pair], &name));
        match found {
            Some((path, root)) => self.pairs[pair].opened.insert(
                fd,
                Opened {
                    path,
                    root,
                    identity: None,
                },
            ),
            None => self.pairs[pair].opened.remove(&fd),
        };
    }
}
