//! The debug information of a build as one arena of entries, references resolved across units and
//! across the supplementary file of `dwz`.

use std::borrow::Cow;
use std::sync::Arc;

use gimli::{AttributeValue as V, DwTag, constants as dw};
use object::{Object as _, ObjectSection as _};

type Slice<'a> = gimli::EndianSlice<'a, gimli::LittleEndian>;

/// Key of an entry: its offset in `.debug_info`, with the top bit set for the supplementary file.
pub type DieKey = u64;

const SUPPLEMENT: u64 = 1 << 63;

/// One entry, reduced to what the comparison of builds looks at.
#[derive(Debug)]
pub struct Die {
    /// Its key; the arena is sorted by it.
    pub key: DieKey,
    /// Kind of entry.
    pub tag: DwTag,
    /// Name in the source.
    pub name: Option<Arc<str>>,
    /// Mangled name.
    pub linkage: Option<Arc<str>>,
    /// Type.
    pub ty: Option<DieKey>,
    /// Declaration or abstract instance that this entry completes.
    pub origin: Option<DieKey>,
    /// Index of the parent, `None` for a unit.
    pub parent: Option<u32>,
    /// Index after the last descendant.
    pub end: u32,
    /// Code ranges.
    pub ranges: Vec<(u64, u64)>,
    /// Fixed address of a variable.
    pub addr: Option<u64>,
    /// Place of a thread-local variable in the template of these.
    pub tls: Option<u64>,
    /// Bytes of a type.
    pub size: Option<u64>,
    /// Offset of a member in bytes.
    pub offset: Option<u64>,
    /// Offset in bits from `offset`, and size in bits, of a bit field.
    pub bits: (Option<u64>, Option<u64>),
    /// Number of elements of an array dimension.
    pub count: Option<u64>,
    /// Value of an enumerator, or discriminant of a variant.
    pub value: Option<i64>,
    /// Only a declaration.
    pub declaration: bool,
    /// A function that is not called as its type says (`DW_CC_nocall`): the compiler knows all its callers.
    pub own_convention: bool,
    /// Encoding of a base type.
    pub encoding: u8,
}

/// The debug information of a build.
#[derive(Debug, Default)]
pub struct DebugInfo {
    /// All kept entries, sorted by key.
    pub dies: Vec<Die>,
    /// Code ranges of subprograms: start, end, index; sorted.
    code: Vec<(u64, u64, u32)>,
    /// Addresses of variables with the index of the entry; sorted.
    data: Vec<(u64, u32)>,
    /// The same for thread-local variables, by their place in the template.
    tls: Vec<(u64, u32)>,
}

impl DebugInfo {
    /// Reads the debug sections of `file`.
    ///
    /// # Errors
    /// With the parser's message when the DWARF is damaged.
    pub fn parse(
        file: &object::File<'_>,
        supplement: Option<&object::File<'_>>,
    ) -> Result<Self, String> {
        let sections = load(file)?;
        let extra = supplement.map(load).transpose()?;
        let dwarf = sections.borrow_with_sup(extra.as_ref(), |data| {
            gimli::EndianSlice::new(data, gimli::LittleEndian)
        });
        let mut info = Self::default();
        info.read(&dwarf, 0).map_err(|e| e.to_string())?;
        if let Some(supplement) = dwarf.sup() {
            info.read(supplement, SUPPLEMENT)
                .map_err(|e| e.to_string())?;
        }
        for (index, die) in info.dies.iter().enumerate() {
            let index = u32::try_from(index).map_err(|_| "too many entries".to_owned())?;
            if die.tag == dw::DW_TAG_subprogram {
                info.code
                    .extend(die.ranges.iter().map(|r| (r.0, r.1, index)));
            } else if let (dw::DW_TAG_variable, Some(addr)) = (die.tag, die.addr) {
                info.data.push((addr, index));
            } else if let (dw::DW_TAG_variable, Some(place)) = (die.tag, die.tls) {
                info.tls.push((place, index));
            }
        }
        info.code.sort_unstable();
        info.data.sort_unstable();
        info.tls.sort_unstable();
        Ok(info)
    }

    fn read(&mut self, dwarf: &gimli::Dwarf<Slice<'_>>, file: u64) -> gimli::Result<()> {
        let mut strings: std::collections::HashMap<Vec<u8>, Arc<str>> =
            std::collections::HashMap::new();
        let mut headers = dwarf.units();
        while let Some(header) = headers.next()? {
            let unit = dwarf.unit(header)?;
            let Some(base) = unit.header.debug_info_offset().map(|o| o.0 as u64) else {
                continue;
            };
            let mut intern = |value: V<Slice<'_>>| -> Option<Arc<str>> {
                let text = dwarf.attr_string(&unit, value).ok()?;
                let bytes = text.slice();
                if let Some(known) = strings.get(bytes) {
                    return Some(known.clone());
                }
                let shared: Arc<str> = String::from_utf8_lossy(bytes).into();
                strings.insert(bytes.to_vec(), shared.clone());
                Some(shared)
            };
            let mut open: Vec<(isize, u32)> = Vec::new();
            let mut skip_below: Option<isize> = None;
            let mut entries = unit.entries();
            while let Some(entry) = entries.next_dfs()? {
                let depth = entry.depth();
                if skip_below.is_some_and(|limit| depth > limit) {
                    continue;
                }
                skip_below = None;
                while let Some((_, index)) = open.pop_if(|(d, _)| *d >= depth) {
                    self.dies[index as usize].end = self.dies.len() as u32;
                }
                if !is_kept(entry.tag()) {
                    skip_below = Some(depth);
                    continue;
                }
                let index = self.dies.len() as u32;
                let mut die = Die {
                    key: file | (base + entry.offset().0 as u64),
                    tag: entry.tag(),
                    name: None,
                    linkage: None,
                    ty: None,
                    origin: None,
                    parent: open.last().map(|o| o.1),
                    end: index + 1,
                    ranges: Vec::new(),
                    addr: None,
                    tls: None,
                    size: None,
                    offset: None,
                    bits: (None, None),
                    count: None,
                    value: None,
                    declaration: false,
                    own_convention: false,
                    encoding: 0,
                };
                let mut from_above = None;
                for attr in entry.attrs() {
                    let value = attr.value();
                    let key = || match value {
                        V::UnitRef(o) => Some(file | (base + o.0 as u64)),
                        V::DebugInfoRef(o) => Some(file | o.0 as u64),
                        V::DebugInfoRefSup(o) => Some(SUPPLEMENT | o.0 as u64),
                        _ => None,
                    };
                    match attr.name() {
                        dw::DW_AT_name => die.name = intern(value),
                        dw::DW_AT_linkage_name | dw::DW_AT_MIPS_linkage_name => {
                            die.linkage = intern(value)
                        }
                        dw::DW_AT_type => die.ty = key(),
                        dw::DW_AT_specification | dw::DW_AT_abstract_origin => die.origin = key(),
                        dw::DW_AT_byte_size => die.size = attr.udata_value(),
                        dw::DW_AT_data_member_location => {
                            die.offset = attr
                                .udata_value()
                                .or_else(|| constant_offset(&value, &unit));
                        }
                        dw::DW_AT_data_bit_offset => die.bits.0 = attr.udata_value(),
                        dw::DW_AT_bit_offset => from_above = attr.udata_value(),
                        dw::DW_AT_bit_size => die.bits.1 = attr.udata_value(),
                        dw::DW_AT_count => die.count = attr.udata_value(),
                        dw::DW_AT_upper_bound => {
                            // -1 is how some producers write `[0]`; an expression is a run-time bound.
                            die.count = attr
                                .sdata_value()
                                .and_then(|v| v.checked_add(1))
                                .and_then(|v| u64::try_from(v).ok());
                        }
                        dw::DW_AT_const_value | dw::DW_AT_discr_value => {
                            die.value = attr
                                .sdata_value()
                                .or_else(|| attr.udata_value().map(|v| v as i64));
                        }
                        dw::DW_AT_calling_convention => {
                            die.own_convention =
                                matches!(value, V::CallingConvention(dw::DW_CC_nocall));
                        }
                        dw::DW_AT_declaration => die.declaration = matches!(value, V::Flag(true)),
                        dw::DW_AT_encoding => {
                            if let V::Encoding(e) = value {
                                die.encoding = e.0;
                            }
                        }
                        dw::DW_AT_location => {
                            if let V::Exprloc(expression) = value {
                                die.addr = fixed_address(dwarf, &unit, expression);
                                die.tls = thread_local(dwarf, &unit, expression);
                            }
                        }
                        _ => {}
                    }
                }
                // DWARF 2 and 3 counted from the highest bit of the storage unit.
                if let (Some(offset), Some(size), Some(bytes)) = (from_above, die.bits.1, die.size)
                {
                    die.bits.0 = (bytes * 8).checked_sub(offset + size);
                }
                if die.tag == dw::DW_TAG_subprogram {
                    let mut ranges = dwarf.die_ranges(&unit, entry)?;
                    while let Some(range) = ranges.next()? {
                        if range.begin < range.end && range.begin != 0 {
                            die.ranges.push((range.begin, range.end));
                        }
                    }
                }
                self.dies.push(die);
                if entry.has_children() {
                    open.push((depth, index));
                }
            }
            for (_, index) in open {
                self.dies[index as usize].end = self.dies.len() as u32;
            }
        }
        Ok(())
    }

    /// The entry with a key.
    #[must_use]
    pub fn get(&self, key: DieKey) -> Option<(u32, &Die)> {
        let index = self.dies.binary_search_by_key(&key, |d| d.key).ok()?;
        Some((u32::try_from(index).ok()?, &self.dies[index]))
    }

    /// Direct children of an entry.
    pub fn children(&self, index: u32) -> impl Iterator<Item = (u32, &Die)> {
        let end = self.dies[index as usize].end;
        let mut next = index + 1;
        std::iter::from_fn(move || {
            (next < end).then(|| {
                let current = next;
                next = self.dies[current as usize].end;
                (current, &self.dies[current as usize])
            })
        })
    }

    /// Follows `origin` until `pick` gives something.
    pub fn through_origin<T>(&self, die: &Die, pick: impl Fn(&Die) -> Option<T>) -> Option<T> {
        let mut current = die;
        for _ in 0..8 {
            if let Some(found) = pick(current) {
                return Some(found);
            }
            current = self.get(current.origin?)?.1;
        }
        None
    }

    /// The compilation unit (path as the compiler was given it) of an entry.
    #[must_use]
    pub fn unit_name(&self, index: u32) -> Option<Arc<str>> {
        let mut current = &self.dies[index as usize];
        while let Some(parent) = current.parent {
            current = &self.dies[parent as usize];
        }
        if current.tag == dw::DW_TAG_compile_unit {
            current.name.clone()
        } else {
            None
        }
    }

    /// The subprogram whose code covers an address.
    #[must_use]
    pub fn subprogram_at(&self, addr: u64) -> Option<u32> {
        let at = self.code.partition_point(|c| c.0 <= addr);
        self.code[..at]
            .iter()
            .rev()
            .take(4)
            .find(|c| addr < c.1)
            .map(|c| c.2)
    }

    /// The variables that start at an address.
    pub fn variables_at(&self, addr: u64) -> impl Iterator<Item = u32> {
        let start = self.data.partition_point(|d| d.0 < addr);
        self.data[start..]
            .iter()
            .take_while(move |d| d.0 == addr)
            .map(|d| d.1)
    }

    /// The thread-local variable at a place in the template of these.
    #[must_use]
    pub fn thread_local_at(&self, place: u64) -> Option<u32> {
        let at = self.tls.partition_point(|t| t.0 < place);
        self.tls.get(at).filter(|t| t.0 == place).map(|t| t.1)
    }

    /// Name of an entry: the mangled one if there is one.
    #[must_use]
    pub fn symbol_name(&self, index: u32) -> Option<Arc<str>> {
        let die = &self.dies[index as usize];
        self.through_origin(die, |d| d.linkage.clone())
            .or_else(|| self.through_origin(die, |d| d.name.clone()))
    }

    /// Names of the formal parameters of a subprogram, in order.
    #[must_use]
    pub fn parameter_names(&self, index: u32) -> Vec<Option<Arc<str>>> {
        self.children(index)
            .filter(|(_, d)| d.tag == dw::DW_TAG_formal_parameter)
            .map(|(_, d)| self.through_origin(d, |d| d.name.clone()))
            .collect()
    }

    /// The function in which a static variable is declared, if any: names from the outside in.
    #[must_use]
    pub fn enclosing_function(&self, index: u32) -> Option<Arc<str>> {
        let mut current = self.dies[index as usize].parent;
        while let Some(parent) = current {
            if self.dies[parent as usize].tag == dw::DW_TAG_subprogram {
                return self.symbol_name(parent);
            }
            current = self.dies[parent as usize].parent;
        }
        None
    }
}

fn load<'a>(file: &object::File<'a>) -> Result<gimli::DwarfSections<Cow<'a, [u8]>>, String> {
    gimli::DwarfSections::load(|id| -> Result<Cow<'a, [u8]>, String> {
        match file.section_by_name(id.name()) {
            Some(section) => section
                .uncompressed_data()
                .map_err(|e| format!("{}: {e}", id.name())),
            None => Ok(Cow::Borrowed(&[])),
        }
    })
}

fn is_kept(tag: DwTag) -> bool {
    matches!(
        tag,
        dw::DW_TAG_compile_unit
            | dw::DW_TAG_partial_unit
            | dw::DW_TAG_type_unit
            | dw::DW_TAG_namespace
            | dw::DW_TAG_subprogram
            | dw::DW_TAG_formal_parameter
            | dw::DW_TAG_variable
            | dw::DW_TAG_lexical_block
            | dw::DW_TAG_structure_type
            | dw::DW_TAG_class_type
            | dw::DW_TAG_union_type
            | dw::DW_TAG_enumeration_type
            | dw::DW_TAG_enumerator
            | dw::DW_TAG_member
            | dw::DW_TAG_inheritance
            | dw::DW_TAG_variant_part
            | dw::DW_TAG_variant
            | dw::DW_TAG_typedef
            | dw::DW_TAG_base_type
            | dw::DW_TAG_pointer_type
            | dw::DW_TAG_const_type
            | dw::DW_TAG_volatile_type
            | dw::DW_TAG_restrict_type
            | dw::DW_TAG_atomic_type
            | dw::DW_TAG_array_type
            | dw::DW_TAG_subrange_type
            | dw::DW_TAG_subroutine_type
            | dw::DW_TAG_reference_type
            | dw::DW_TAG_rvalue_reference_type
            | dw::DW_TAG_ptr_to_member_type
            | dw::DW_TAG_unspecified_type
            | dw::DW_TAG_unspecified_parameters
    )
}

/// `DW_OP_addr X`, `DW_OP_addrx N`: anything longer is no fixed address.
fn fixed_address(
    dwarf: &gimli::Dwarf<Slice<'_>>,
    unit: &gimli::Unit<Slice<'_>>,
    expression: gimli::Expression<Slice<'_>>,
) -> Option<u64> {
    let mut operations = expression.operations(unit.encoding());
    let first = operations.next().ok()??;
    if operations.next().ok()?.is_some() {
        return None;
    }
    match first {
        gimli::Operation::Address { address } => Some(address),
        gimli::Operation::AddressIndex { index } => dwarf.address(unit, index).ok(),
        _ => None,
    }
}

/// `DW_OP_const8u X` (or another constant), `DW_OP_form_tls_address`.
fn thread_local(
    dwarf: &gimli::Dwarf<Slice<'_>>,
    unit: &gimli::Unit<Slice<'_>>,
    expression: gimli::Expression<Slice<'_>>,
) -> Option<u64> {
    let mut operations = expression.operations(unit.encoding());
    let place = match operations.next().ok()?? {
        gimli::Operation::UnsignedConstant { value } => value,
        gimli::Operation::Address { address } => address,
        gimli::Operation::AddressIndex { index } | gimli::Operation::ConstantIndex { index } => {
            dwarf.address(unit, index).ok()?
        }
        _ => return None,
    };
    matches!(operations.next().ok()??, gimli::Operation::TLS).then_some(place)
}

/// DWARF 2 wrote member offsets as `DW_OP_plus_uconst N`.
fn constant_offset(value: &V<Slice<'_>>, unit: &gimli::Unit<Slice<'_>>) -> Option<u64> {
    let V::Exprloc(expression) = value else {
        return None;
    };
    match expression.operations(unit.encoding()).next().ok()?? {
        gimli::Operation::PlusConstant { value } => Some(value),
        _ => None,
    }
}
