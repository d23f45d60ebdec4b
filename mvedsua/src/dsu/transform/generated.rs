//! The C text of a declared transformer around the functions that were generated for its types.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::declared::{Generator, Kind};

/// The traversal: a stack of objects, so that a list of a million entries needs no recursion.
const WALK: &str = include_str!("walk.c");

impl Generator<'_> {
    pub(super) fn c_type(&self, kind: &Kind, new: bool) -> String {
        if kind.depth > 0 {
            return "void *".into();
        }
        let definition = &self.world.old_definitions[&kind.tag];
        format!(
            "{} {}{}",
            definition.keyword,
            self.world.prefix(&kind.tag, new),
            kind.tag
        )
    }

    pub(super) fn text(
        &self,
        functions: &str,
        known: &str,
        roots: &str,
        handled: &BTreeSet<&String>,
    ) -> String {
        let mut out = String::from("#include <mvedsua.h>\n\n");
        for tag in handled {
            let keyword = self.world.old_definitions[*tag].keyword;
            let _ = writeln!(out, "MVEDSUA_HANDLES({keyword} {tag});");
        }
        let (mut kinds, mut prototypes, mut sizes, mut cases) =
            (String::new(), String::new(), String::new(), String::new());
        for kind in &self.kinds {
            let name = kind.name();
            let (a, b) = (self.c_type(kind, false), self.c_type(kind, true));
            let anew = kind.depth == 0 && self.moving.contains(&kind.tag);
            let keep = kind.depth == 0 && self.rule(&kind.tag).keep;
            let _ = write!(kinds, "KIND_{name}, ");
            if kind.depth > 0 {
                let _ = writeln!(
                    prototypes,
                    "static void copy_{name}(void **to, void **from);"
                );
            } else {
                let _ = writeln!(prototypes, "static void copy_{name}({b} *to, {a} *from);");
            }
            let _ = writeln!(
                sizes,
                "    [KIND_{name}] = {{sizeof({a}), sizeof({b}), {}, {}, {}}},",
                i32::from(anew),
                i32::from(anew && !keep),
                i32::from(kind.depth == 0)
            );
            let _ = writeln!(
                cases,
                "        case KIND_{name}: copy_{name}(({b} *)to, ({a} *)from); break;"
            );
        }
        let alloc = match &self.declaration.alloc {
            Some(name) => format!("new_{name}"),
            None => "mvedsua_alloc".into(),
        };
        let free = match self.declaration.free.as_deref() {
            Some("none") => "(void)".into(),
            Some(name) => format!("new_{name}"),
            None => "mvedsua_free".to_owned(),
        };
        let _ = write!(
            out,
            "\nenum {{ {kinds}KINDS }};\n{prototypes}\nstatic void *visit(int kind, const void *old, unsigned long count);\n#define ALLOC {alloc}\n#define FREE {free}\n\
             static const struct {{ unsigned long old_size, new_size; int anew, give_back, object; }} kinds[KINDS + 1] = {{\n{sizes}    [KINDS] = {{0, 0, 0, 0, 0}},\n}};\n\
             static void copy(int kind, void *to, void *from) {{\n    switch (kind) {{\n{cases}    }}\n}}\n\n{WALK}\n{functions}\
             int mvedsua_transform(void) {{\n{known}{roots}    walk();\n    return 0;\n}}\n"
        );
        out
    }
}
