//! What of the new build a bundle does not place, since the old image has it: the next bundle builds on it.

use super::carry::Carrier;
use super::catalog::EntityKind;
use super::image::Reloc;
use super::manifest::Mapped;

impl Carrier<'_> {
    /// Where the things of the new build are that stay old.
    pub(super) fn map(&self) -> Vec<Mapped> {
        let pair = self.pair;
        let mut map = Vec::new();
        for (id, entity) in pair.new.catalog.entities.iter().enumerate() {
            let Some(old) = pair.pairing.to_old[id].map(|o| &pair.old.catalog.entities[o]) else {
                continue;
            };
            if entity.kind == EntityKind::Tls || self.objects.contains(&id) {
                continue;
            }
            let same_code = entity.kind == EntityKind::Function
                && !self.functions.contains(&id)
                && !self.replaced.contains(&id);
            let len = if same_code || entity.kind == EntityKind::Object {
                entity.size.min(old.size).max(1)
            } else {
                1
            };
            map.push(Mapped {
                new_addr: entity.addr,
                len,
                old_addr: old.addr,
            });
        }
        for (addr, stub) in &pair.new.build.image.plt {
            if let Some(old) = self.old_stubs.get(stub.symbol.as_str()) {
                map.push(Mapped {
                    new_addr: *addr,
                    len: 1,
                    old_addr: *old,
                });
            }
        }
        for (at, reloc) in &pair.new.build.image.relocs {
            if let Reloc::Import(name, addend) = reloc
                && let Some(old) = self.old_slots.get(&(name.as_str(), *addend))
                && pair
                    .new
                    .build
                    .image
                    .section_at(*at)
                    .is_some_and(|s| s.name.starts_with(".got"))
            {
                map.push(Mapped {
                    new_addr: *at,
                    len: 8,
                    old_addr: *old,
                });
            }
        }
        map.sort_by_key(|m| m.new_addr);
        map.dedup_by_key(|m| m.new_addr);
        map
    }
}
