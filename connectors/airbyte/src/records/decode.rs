//! RECORD lines into the columns of one stream, without a value tree in between.
//!
//! The keys of a record nearly always come as in the record before: each known key remembers which
//! one came after it, so that a key costs one comparison of bytes. Where the guess is wrong, a hash
//! map knows. Values are written into the columns where they are read; a record that turns out to
//! be broken is taken back.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema, SchemaRef};
use highwater_core::text::push_json_string;
use highwater_core::{Error, Result};

use super::column::{Column, Fate};
use super::line::{self, Line, Record};
use super::scan::{self, Broken, Scan, Token, blank, expect};
use super::schema::Kind;
use super::strict::{Misfit, Strictness};

/// Names of unknown fields that are remembered; more are counted together.
const UNKNOWN_MAX: usize = 100;
/// Names longer than this are not remembered: they are no names.
const NAME_BYTES_MAX: usize = 200;
/// Keys that are remembered in the form in which they came.
const KEYS_MAX: usize = 4_096;
/// The texts of a batch have offsets of 32 bits, and cleaning may make a text a little longer.
const BATCH_BYTES_MAX: usize = i32::MAX as usize / 2;

/// Where the values of a column come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// What is at this path in the data: one key for a property, more for what is nested.
    Path(Vec<String>),
    /// `emitted_at`, a timestamp in microseconds.
    ExtractedAt,
    /// What was changed, as JSON text: `{"changes":[…]}`, NULL where nothing was.
    Meta,
    /// The whole message, as it came.
    Line,
    /// All of the record's data, as JSON text.
    Data,
}

/// A column that is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name and type.
    pub field: Field,
    /// Where its values come from.
    pub origin: Origin,
}

impl Wanted {
    /// The column of a property of the same name.
    pub fn property(field: Field) -> Self {
        let origin = Origin::Path(vec![field.name().clone()]);
        Self { field, origin }
    }
}

/// What to do with the value of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// It goes into one column.
    Column(u32),
    /// It goes into several, or parts of it do.
    Node(u32),
    /// It is not wanted.
    Skip,
    /// No one knows it; the number of its counter.
    Unknown(u32),
    /// No one knows it, and it has no counter of its own.
    Nameless,
}

/// A key as it came, with quotes and colon.
#[derive(Debug)]
struct Key {
    quoted: Box<[u8]>,
    slot: Slot,
    /// The key that came after it the last time.
    next: u32,
}

/// What lies at a path that is wanted.
#[derive(Debug, Default)]
struct Node {
    columns: Vec<u32>,
    children: Vec<(String, u32)>,
}

/// The columns of the hidden parts of a record.
#[derive(Debug, Default)]
struct Hidden {
    extracted_at: Vec<u32>,
    meta: Vec<u32>,
    line: Vec<u32>,
    data: Vec<u32>,
}

/// Decodes the records of one stream.
#[derive(Debug)]
pub struct Decoder {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// For each column what it is called in a list of changes.
    labels: Vec<String>,
    hidden: Hidden,
    hidden_count: usize,
    nodes: Vec<Node>,
    /// By the name of a top-level key.
    slots: HashMap<Box<str>, Slot>,
    /// The first is no key: what comes after it is the first key of a record.
    keys: Vec<Key>,
    by_quoted: HashMap<Box<[u8]>, u32>,
    unknown: Vec<(String, u64)>,
    nameless: u64,
    changed: Vec<u64>,
    /// For each column whether a value may be replaced by NULL, or be cut.
    strictness: Vec<Strictness>,
    misfit: Option<Misfit>,
    rows: usize,
    bytes: usize,
    row: Row,
}

/// What is known of the record that is being read.
#[derive(Debug, Default)]
struct Row {
    /// Columns that have their value.
    filled: usize,
    /// Columns whose value could not be kept as it was.
    changed: Vec<(u32, Fate)>,
    unknown: Vec<Slot>,
    meta: String,
}

impl Decoder {
    /// A decoder for the columns that are wanted, in this order. `properties` are the names of
    /// all properties of the stream: what is among them and not wanted is passed over, what is
    /// not is counted ([`Self::unknown`]).
    ///
    /// # Errors
    /// `Unsupported` for fields that no property has.
    pub fn new<'a>(
        wanted: Vec<Wanted>,
        properties: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self> {
        let first = Key { quoted: Box::default(), slot: Slot::Skip, next: 0 };
        let mut decoder = Self {
            schema: Arc::new(Schema::empty()),
            columns: Vec::with_capacity(wanted.len()),
            labels: Vec::with_capacity(wanted.len()),
            hidden: Hidden::default(),
            hidden_count: 0,
            nodes: vec![Node::default()],
            slots: HashMap::new(),
            keys: vec![first],
            by_quoted: HashMap::new(),
            unknown: Vec::new(),
            nameless: 0,
            changed: vec![0; wanted.len()],
            strictness: vec![Strictness::Lenient; wanted.len()],
            misfit: None,
            rows: 0,
            bytes: 0,
            row: Row::default(),
        };
        let mut fields = Vec::with_capacity(wanted.len());
        for column in wanted {
            decoder.want(&column)?;
            fields.push(column.field);
        }
        decoder.schema = Arc::new(Schema::new(fields));
        decoder.slots.extend(properties.into_iter().map(|name| (name.into(), Slot::Skip)));
        for (name, child) in std::mem::take(&mut decoder.nodes[0].children) {
            let node = &decoder.nodes[child as usize];
            let slot = match (&node.columns[..], &node.children[..]) {
                ([column], []) => Slot::Column(*column),
                _ => Slot::Node(child),
            };
            decoder.slots.insert(name.into(), slot);
        }
        Ok(decoder)
    }

    fn want(&mut self, wanted: &Wanted) -> Result<()> {
        let kind = Kind::of_field(&wanted.field)?;
        let index = self.columns.len() as u32;
        let fits = match &wanted.origin {
            Origin::Path(path) => {
                let node = path.iter().fold(0, |node, key| self.child(node, key));
                self.nodes[node as usize].columns.push(index);
                !path.is_empty()
            }
            Origin::ExtractedAt => {
                self.hidden.extracted_at.push(index);
                matches!(kind, Kind::Timestamp | Kind::TimestampUtc)
            }
            Origin::Meta => {
                self.hidden.meta.push(index);
                matches!(kind, Kind::Any | Kind::Object | Kind::Text)
            }
            Origin::Line => {
                self.hidden.line.push(index);
                matches!(kind, Kind::Any | Kind::Object | Kind::Text)
            }
            Origin::Data => {
                self.hidden.data.push(index);
                matches!(kind, Kind::Any | Kind::Object | Kind::Text)
            }
        };
        if !fits {
            return Err(Error::unsupported("A column cannot hold what it is wanted for")
                .context("column", wanted.field.name())
                .context("type", wanted.field.data_type()));
        }
        self.hidden_count += usize::from(!matches!(wanted.origin, Origin::Path(_)));
        self.labels.push(match &wanted.origin {
            Origin::Path(path) => path.join("."),
            _ => wanted.field.name().clone(),
        });
        self.columns.push(Column::new(kind));
        Ok(())
    }

    /// The node for `key` below `node`, made where there is none.
    fn child(&mut self, node: u32, key: &str) -> u32 {
        let known = self.nodes[node as usize].children.iter().find(|(name, _)| name == key);
        if let Some((_, child)) = known {
            return *child;
        }
        let child = self.nodes.len() as u32;
        self.nodes.push(Node::default());
        self.nodes[node as usize].children.push((key.to_owned(), child));
        child
    }

    /// How strict the column at `index` is from now on.
    pub fn set_strictness(&mut self, index: usize, strictness: Strictness) {
        if let Some(of_column) = self.strictness.get_mut(index) {
            *of_column = strictness;
        }
    }

    /// The first value that did not fit a strict column. Its record was not appended.
    pub fn misfit(&self) -> Option<&Misfit> {
        self.misfit.as_ref()
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How many records were appended since the last [`Self::finish`].
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many bytes of text they had.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fields that the stream's schema does not have, and in how many records each came since
    /// the beginning. Of many names only some are told apart; the rest is counted as `…`.
    pub fn unknown(&self) -> impl Iterator<Item = (&str, u64)> {
        let rest = (self.nameless > 0).then_some(("…", self.nameless));
        self.unknown.iter().map(|(name, count)| (name.as_str(), *count)).chain(rest)
    }

    /// Columns with values that could not be kept as they were, and how many since the beginning.
    pub fn changed(&self) -> impl Iterator<Item = (&str, u64)> {
        let all = self.labels.iter().zip(&self.changed);
        all.filter(|(_, count)| **count > 0).map(|(label, count)| (label.as_str(), *count))
    }

    /// Appends a record. A value that does not fit its column is NULL (or cut) and becomes an
    /// entry of the row's changes; it is never an error. In a strict column it is a
    /// [`Self::misfit`], and the record is not appended.
    ///
    /// # Errors
    /// `Data` when the record is not JSON; nothing is appended then.
    pub fn append(&mut self, record: &Record<'_>) -> Result<()> {
        if self.bytes + record.line.len() > BATCH_BYTES_MAX {
            return Err(record.broken("Too many records in one batch"));
        }
        if self.decode(record).is_ok() {
            return Ok(());
        }
        self.take_back();
        if record.guessed
            && let Line::Record(second) = line::general(record.line, record.number)?
            && second.stream == record.stream
            && second.namespace == record.namespace
            && self.decode(&second).is_ok()
        {
            return Ok(());
        }
        self.take_back();
        Err(record.broken("A record is not JSON"))
    }

    /// The rows so far, as a batch. The decoder is empty afterwards.
    ///
    /// # Errors
    /// `Internal` where a field that may not be NULL is.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let fields = self.schema.fields().iter();
        let arrays = fields.zip(&mut self.columns).map(|(f, column)| column.finish(f.data_type()));
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        (self.rows, self.bytes) = (0, 0);
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|error| Error::internal("Records do not make a batch").caused_by(error))
    }

    /// Undoes what a broken record has left behind.
    fn take_back(&mut self) {
        self.columns.iter_mut().for_each(|column| column.truncate(self.rows));
        self.begin();
    }

    fn begin(&mut self) {
        self.row.filled = 0;
        self.row.changed.clear();
        self.row.unknown.clear();
    }

    fn decode(&mut self, record: &Record<'_>) -> Scan<()> {
        let end = record.data.end;
        let text = record.line.get(..end).ok_or(Broken)?;
        let bytes = text.as_bytes();
        let mut at = expect(bytes, record.data.start, b'{')?;
        if bytes.get(at) == Some(&b'}') {
            at += 1;
        } else {
            let mut last = 0;
            loop {
                let (key, slot, value) = self.key(text, at, last)?;
                last = key;
                at = blank(bytes, self.take(text, value, slot)?);
                match bytes.get(at) {
                    Some(b',') => at = blank(bytes, at + 1),
                    Some(b'}') => break,
                    _ => return Err(Broken),
                }
            }
            at += 1;
        }
        if at != end {
            return Err(Broken);
        }
        self.complete(record)
    }

    /// The key at `at`: its number (or that of the last one, where it has none), what to do with
    /// it, and where its value is. `last` is the key before.
    #[inline(always)]
    fn key(&mut self, text: &str, at: usize, last: u32) -> Scan<(u32, Slot, usize)> {
        let bytes = text.as_bytes();
        let next = self.keys[last as usize].next;
        let guess = &self.keys[next as usize];
        let end = at + guess.quoted.len();
        if next != 0 && bytes.get(at..end) == Some(&*guess.quoted) {
            return Ok((next, guess.slot, blank(bytes, end)));
        }
        self.other_key(text, at, last)
    }

    #[cold]
    fn other_key(&mut self, text: &str, at: usize, last: u32) -> Scan<(u32, Slot, usize)> {
        let bytes = text.as_bytes();
        if bytes.get(at) != Some(&b'"') {
            return Err(Broken);
        }
        let content = scan::string(bytes, at + 1)?;
        let value = expect(bytes, content.end + 1, b':')?;
        let raw = text.get(at + 1..content.end).ok_or(Broken)?;
        if let Some(key) = self.by_quoted.get(raw.as_bytes()).copied() {
            self.keys[last as usize].next = key;
            return Ok((key, self.keys[key as usize].slot, value));
        }
        let name = scan::unescaped(raw, content);
        let slot = match self.slots.get(&*name) {
            Some(slot) => *slot,
            // Nothing is left out where all of it has a column.
            None if !self.hidden.data.is_empty() => Slot::Skip,
            None if self.unknown.len() < UNKNOWN_MAX && name.len() <= NAME_BYTES_MAX => {
                let counter = self.unknown.len() as u32;
                self.unknown.push((name.as_ref().to_owned(), 0));
                self.slots.insert(name.into(), Slot::Unknown(counter));
                Slot::Unknown(counter)
            }
            None => Slot::Nameless,
        };
        if slot == Slot::Nameless || self.keys.len() >= KEYS_MAX {
            return Ok((last, slot, value));
        }
        let key = self.keys.len() as u32;
        let quoted = [b"\"", raw.as_bytes(), b"\":"].concat().into();
        self.keys.push(Key { quoted, slot, next: 0 });
        self.by_quoted.insert(raw.as_bytes().into(), key);
        self.keys[last as usize].next = key;
        Ok((key, slot, value))
    }

    /// Takes the value at `at`; the position after it.
    #[inline(always)]
    fn take(&mut self, text: &str, at: usize, slot: Slot) -> Scan<usize> {
        match slot {
            Slot::Column(column) => self.fill(column, text, at),
            Slot::Skip => Ok(scan::value(text.as_bytes(), at)?.end),
            Slot::Unknown(_) | Slot::Nameless => {
                self.row.unknown.push(slot);
                Ok(scan::value(text.as_bytes(), at)?.end)
            }
            Slot::Node(node) => self.fill_node(node, text, at),
        }
    }

    /// Puts the value at `at` into a column; the position after it. Of a key that comes twice
    /// the last value counts.
    #[inline(always)]
    fn fill(&mut self, index: u32, text: &str, at: usize) -> Scan<usize> {
        if self.columns[index as usize].len() > self.rows {
            self.drop_value(index);
        }
        let (end, fate) = self.columns[index as usize].push_json(text, at)?;
        self.row.filled += 1;
        if fate != Fate::Kept {
            self.row.changed.push((index, fate));
        }
        Ok(end)
    }

    /// Takes back the value that a column has in this record.
    #[cold]
    fn drop_value(&mut self, index: u32) {
        self.columns[index as usize].truncate(self.rows);
        self.row.filled -= 1;
        self.row.changed.retain(|(changed, _)| *changed != index);
    }

    #[cold]
    fn fill_node(&mut self, node: u32, text: &str, at: usize) -> Scan<usize> {
        let value = scan::value(text.as_bytes(), at)?;
        self.empty(node);
        for index in self.nodes[node as usize].columns.clone() {
            self.fill(index, text, at)?;
        }
        if value.token == Token::Object {
            let mut children = Vec::new();
            line::members(text, at, |key, at| {
                let known =
                    self.nodes[node as usize].children.iter().find(|(name, _)| *name == key);
                children.extend(known.map(|(_, child)| (*child, at)));
                Ok(scan::value(text.as_bytes(), at)?.end)
            })?;
            for (child, at) in children {
                self.fill_node(child, text, at)?;
            }
        } else if value.token != Token::Null {
            for (_, child) in self.nodes[node as usize].children.clone() {
                self.out_of_reach(child);
            }
        }
        Ok(value.end)
    }

    /// What was to be found inside of a value that is no object, and may not be NULL instead.
    fn out_of_reach(&mut self, node: u32) {
        let columns = self.nodes[node as usize].columns.iter();
        let strict =
            columns.filter(|index| self.strictness[**index as usize] != Strictness::Lenient);
        self.row.changed.extend(strict.map(|index| (*index, Fate::Nulled)));
        for (_, child) in self.nodes[node as usize].children.clone() {
            self.out_of_reach(child);
        }
    }

    /// Drops what an earlier value of the same key has left.
    fn empty(&mut self, node: u32) {
        for index in self.nodes[node as usize].columns.clone() {
            if self.columns[index as usize].len() > self.rows {
                self.drop_value(index);
            }
            self.row.changed.retain(|(changed, _)| *changed != index);
        }
        for (_, child) in self.nodes[node as usize].children.clone() {
            self.empty(child);
        }
    }

    /// Fills what the data does not have, and counts.
    #[inline]
    fn complete(&mut self, record: &Record<'_>) -> Scan<()> {
        if self.row.filled + self.hidden_count < self.columns.len() || self.hidden_count > 0 {
            self.fill_hidden(record)?;
            let rows = self.rows;
            for column in self.columns.iter_mut().filter(|column| column.len() == rows) {
                column.push_null();
            }
        }
        if !self.row.changed.is_empty() && self.is_misfit(record) {
            self.take_back();
            return Ok(());
        }
        for (index, _) in &self.row.changed {
            self.changed[*index as usize] += 1;
        }
        for slot in &self.row.unknown {
            match slot {
                Slot::Unknown(counter) => self.unknown[*counter as usize].1 += 1,
                _ => self.nameless += 1,
            }
        }
        self.rows += 1;
        self.bytes += record.line.len();
        self.begin();
        Ok(())
    }

    /// Whether a value of the record does not fit a strict column; the first is kept.
    #[cold]
    fn is_misfit(&mut self, record: &Record<'_>) -> bool {
        let is_strict = |(index, fate): &&(u32, Fate)| match self.strictness[*index as usize] {
            Strictness::Lenient => false,
            Strictness::NoNull => *fate == Fate::Nulled,
            Strictness::Exact => true,
        };
        let Some((index, _)) = self.row.changed.iter().find(is_strict) else { return false };
        let column = self.schema.field(*index as usize).name().clone();
        self.misfit.get_or_insert(Misfit { column, line: record.number });
        true
    }

    fn fill_hidden(&mut self, record: &Record<'_>) -> Scan<()> {
        for index in self.hidden.data.clone() {
            let (_, fate) =
                self.columns[index as usize].push_json(record.line, record.data.start)?;
            if fate != Fate::Kept {
                self.row.changed.push((index, fate));
            }
        }
        for index in &self.hidden.extracted_at {
            self.columns[*index as usize].push_long(record.emitted_at_micros);
        }
        for index in &self.hidden.line {
            self.columns[*index as usize].push_text(record.line.as_bytes());
        }
        if !self.hidden.meta.is_empty()
            && (record.changes.is_some() || !self.row.changed.is_empty())
        {
            self.row.write_meta(record, &self.labels)?;
            self.bytes += self.row.meta.len();
            for index in &self.hidden.meta {
                self.columns[*index as usize].push_text(self.row.meta.as_bytes());
            }
        }
        Ok(())
    }
}

impl Row {
    /// The source's changes, then ours.
    fn write_meta(&mut self, record: &Record<'_>, labels: &[String]) -> Scan<()> {
        self.meta.clear();
        self.meta.push_str("{\"changes\":[");
        if let Some(array) = record.changes.clone() {
            let raw = record.line.get(array).ok_or(Broken)?;
            let mut clean = Vec::new();
            scan::cleaned(raw.as_bytes(), &mut clean);
            let clean = String::from_utf8(clean).map_err(|_| Broken)?;
            let inside = clean.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let inside = inside.ok_or(Broken)?.trim();
            self.meta.push_str(inside);
        }
        for (index, fate) in &self.changed {
            if !self.meta.ends_with('[') {
                self.meta.push(',');
            }
            self.meta.push_str("{\"field\":");
            push_json_string(&mut self.meta, &labels[*index as usize]);
            self.meta.push_str(match fate {
                Fate::Nulled => ",\"change\":\"NULLED\"",
                _ => ",\"change\":\"TRUNCATED\"",
            });
            self.meta.push_str(",\"reason\":\"SOURCE_SERIALIZATION_ERROR\"}");
        }
        self.meta.push_str("]}");
        Ok(())
    }
}
