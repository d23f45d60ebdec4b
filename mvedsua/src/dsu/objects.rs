//! Variables and constants of two builds: what stays, what is changed in place, what is placed anew.

use std::collections::BTreeSet;

use super::build::Analyser;
use super::catalog::{Entity, EntityKind, is_class_table};
use super::image::Reloc;
use super::manifest::{Patch, Target};
use super::meaning::{Meaning, Side};
use super::report::ObjectNote;
use super::transform::Touch;

impl Analyser<'_> {
    /// Compares variables and constants; returns the constants that have grown.
    pub(super) fn objects(&mut self) -> BTreeSet<usize> {
        let pair = self.pair;
        let mut moved = BTreeSet::new();
        for (id, entity) in pair.new.catalog.entities.iter().enumerate() {
            let Some(old) = pair.pairing.to_old[id].map(|o| &pair.old.catalog.entities[o]) else {
                continue;
            };
            match entity.kind {
                EntityKind::Object if is_data(&pair.new, entity) && is_data(&pair.old, old) => {
                    self.object(id, old, entity, &mut moved)
                }
                EntityKind::Tls => self.thread_local(id, old, entity),
                _ => {}
            }
        }
        moved
    }

    /// A transformer cannot reach the blocks of running threads.
    fn thread_local(&mut self, id: usize, old: &Entity, new: &Entity) {
        let name = new.label();
        let kept = new
            .names
            .iter()
            .any(|n| self.options.keep_values.contains(n));
        if old.size != new.size || types_differ(old, new) {
            let (was, is) = (type_of(old), type_of(new));
            return self.block("E412", name, format!("this thread-local variable was {was} ({} bytes) and is {is} ({} bytes), and no transformer reaches the blocks of running threads: keep its type, or restart for this update", old.size, new.size));
        }
        match self.given.as_ref().and_then(|g| g.thread_local(id)).cloned() {
            Some(Touch::Holds(tag)) => {
                return self.block("E412", name, format!("this thread-local variable holds {tag}, whose layout differs, and no transformer reaches the blocks of running threads: restart for this update"));
            }
            Some(Touch::LeadsTo(tag)) if !kept => {
                return self.block("E417", name, format!("this thread-local variable leads to {tag}, whose layout differs, and no transformer finds what only such a variable leads to; if variables of another kind lead there too, say --keep-value: a word in it that is the address of a moved object follows that object"));
            }
            Some(Touch::LeadsTo(tag)) => self.report.objects.push(ObjectNote {
                name: name.clone(),
                what: format!("thread-local, and leads to {tag}: it stays, and follows objects that move (--keep-value)"),
            }),
            Some(Touch::Unknown) => self.report.notes.push(format!(
                "nothing says of what type the thread-local variable {name} is: see for yourself that it leads to no object that the transformer makes anew"
            )),
            None => {}
        }
        let pair = self.pair;
        let value = |side: &Side, e: &Entity| side.build.image.tls_bytes(e.addr, e.size);
        if !kept && value(&pair.old, old) != value(&pair.new, new) {
            self.block("E421", name, "the initial value of this thread-local variable differs, and new threads go on to get the old one; say --keep-value if that is right");
        }
    }

    fn object(&mut self, id: usize, old: &Entity, new: &Entity, moved: &mut BTreeSet<usize>) {
        let pair = self.pair;
        let name = new.label();
        let types_differ = types_differ(old, new);
        if old.writable || new.writable {
            let used = self.given.as_ref().is_some_and(|g| g.uses(pair, id));
            let holds = self.given.as_ref().is_some_and(|g| g.holds_changed(id));
            if used && (old.size != new.size || types_differ || holds) {
                self.report.objects.push(ObjectNote {
                    name: name.clone(),
                    what: "variable of another layout: placed anew, filled by the transformer"
                        .into(),
                });
                moved.insert(id);
                if let Some(given) = &mut self.given {
                    given.moved(old.addr, new.addr, old.size);
                }
                self.check_pointers_to(old, &name);
            } else if holds {
                self.block("E412", name, "this variable holds a type of another layout, and the transformer does not name it");
            } else if old.size != new.size || types_differ {
                let (was, is) = (type_of(old), type_of(new));
                self.block("E412", name, format!("this variable was {was} ({} bytes) and is {is} ({} bytes): its running value needs a transformer", old.size, new.size));
            } else if !pair.same_bytes(old.addr, new.addr, new.size) {
                let kept = new
                    .names
                    .iter()
                    .any(|n| self.options.keep_values.contains(n));
                if used {
                    self.report.objects.push(ObjectNote {
                        name,
                        what: "its initial value differs; the transformer decides".into(),
                    });
                } else if kept {
                    self.report.objects.push(ObjectNote {
                        name,
                        what: "its initial value differs; the running value stays (--keep-value)"
                            .into(),
                    });
                } else {
                    self.block("E421", name, "its initial value differs, and nothing tells whether the running value should change; say --keep-value to keep the running one");
                }
            }
            return;
        }
        if old.size == new.size && pair.same_bytes(old.addr, new.addr, new.size) {
            return;
        }
        if new.size <= old.size {
            self.report.objects.push(ObjectNote {
                name,
                what: format!("constant, {} bytes: changed in place", new.size),
            });
            self.patch(old, new);
        } else {
            self.report.objects.push(ObjectNote {
                name: name.clone(),
                what: format!(
                    "constant, grew from {} to {} bytes: placed anew",
                    old.size, new.size
                ),
            });
            moved.insert(id);
            if new.names.iter().any(|symbol| is_class_table(symbol)) {
                self.block("E422", name, "it has grown and moved, and living objects of the class go on to point to the old one, in which the new code would look for what is not there");
            } else {
                self.check_pointers_to(old, &name);
            }
        }
    }

    /// Pointers that the old image holds to something that has moved would go on to the old one.
    fn check_pointers_to(&mut self, moved: &Entity, name: &str) {
        let side = &self.pair.old;
        let mut holders = Vec::new();
        for section in side
            .build
            .image
            .sections
            .iter()
            .filter(|s| !s.exec && !s.data.is_empty())
        {
            for at in (section.addr.next_multiple_of(8)
                ..section.addr + (section.data.len() as u64).saturating_sub(7))
                .step_by(8)
            {
                if let Some(Reloc::Image(addr)) = side.pointer_at(at)
                    && addr >= moved.addr
                    && addr < moved.addr + moved.size
                {
                    holders.push(match side.meaning(at) {
                        Meaning::Entity(id, _)
                            if self
                                .given
                                .as_ref()
                                .is_some_and(|g| g.uses_old(self.pair, id)) =>
                        {
                            continue;
                        }
                        Meaning::Entity(id, _) => side.catalog.entities[id].label(),
                        _ => format!("data at {at:#x}"),
                    });
                }
            }
        }
        if let Some(holder) = holders.first() {
            self.block("E422", name, format!("it has grown and moved, but {holder} points to it and may have been copied since"));
        }
    }

    fn patch(&mut self, old: &Entity, new: &Entity) {
        let pair = self.pair;
        let label = new.label();
        let (Some(mut old_bytes), Some(mut new_bytes)) = (
            pair.old.build.image.bytes(old.addr, new.size),
            pair.new.build.image.bytes(new.addr, new.size),
        ) else {
            return self.block("E431", label, "its bytes reach over the end of a section");
        };
        let mut old_pointers = Vec::new();
        for offset in (0..new.size.saturating_sub(7))
            .filter(|o| (new.addr + o).is_multiple_of(8) || pair.new.build.image.pie)
        {
            let at = offset as usize;
            if let Some(reloc) = pair.old.pointer_at(old.addr + offset) {
                old_bytes[at..at + 8].fill(0);
                // What has no name may have been placed anew by an earlier bundle: not checked.
                let target = match reloc {
                    Reloc::Image(addr) => match pair.old.meaning(addr) {
                        Meaning::Entity(id, _) if !pair.old.catalog.entities[id].by_content => {
                            Some(Target::Old(addr))
                        }
                        _ => None,
                    },
                    _ => None,
                };
                old_pointers.push((offset as u32, target));
            }
            if let Some(reloc) = pair.new.pointer_at(new.addr + offset) {
                new_bytes[at..at + 8].fill(0);
                self.pending
                    .push((self.patches.len(), offset as u32, reloc));
            }
        }
        self.patches.push(Patch {
            name: label,
            old_addr: old.addr,
            old: old_bytes,
            old_pointers,
            new: new_bytes,
            new_pointers: Vec::new(),
        });
    }
}

/// Variables of the program, not what linkers keep in tables of their own.
fn is_data(side: &Side, entity: &Entity) -> bool {
    let linker = [
        ".dynamic",
        ".got",
        ".eh_frame",
        ".init_array",
        ".fini_array",
        ".note",
        ".interp",
        ".tm_clone_table",
        ".plt",
    ];
    side.build
        .image
        .section_at(entity.addr)
        .is_some_and(|s| !s.exec && !linker.iter().any(|l| s.name.starts_with(l)))
}

fn types_differ(old: &Entity, new: &Entity) -> bool {
    matches!((&old.type_text, &new.type_text), (Some(a), Some(b)) if a != b)
}

fn type_of(entity: &Entity) -> &str {
    entity.type_text.as_deref().unwrap_or("of unknown type")
}
