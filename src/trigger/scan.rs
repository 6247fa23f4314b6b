//! One pass over a body: checks that it is JSON, and picks the fields that rules name.
//!
//! What counts as JSON is what `JSON.parse` accepts, at any depth; open brackets are kept on the heap.

use super::fields::{Bound, Fields, ROOT};
use super::leaf::{Leaf, Number, Test};
use super::strings::RawString;

/// The fields that rules name, as found in one body.
#[derive(Debug)]
pub(super) struct Picked<'b> {
    /// Slot 0 is the whole body; an object has a run of them, one for each named field.
    slots: Vec<Slot>,
    items: Vec<Item<'b>>,
}

/// A field's values: one, or an array's elements. A chain through the items.
#[derive(Debug, Clone, Copy)]
struct Slot {
    first: u32,
    last: u32,
}

#[derive(Debug)]
struct Item<'b> {
    value: Value<'b>,
    next: u32,
}

#[derive(Debug)]
enum Value<'b> {
    Leaf(Leaf<'b>),
    /// The first of the object's slots.
    Object(u32),
}

const NONE: u32 = u32::MAX;
const ABSENT: Slot = Slot { first: NONE, last: NONE };
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl<'b> Picked<'b> {
    /// `None` is a tombstone, which is null; a body that is not JSON is absent.
    pub(super) fn from_body(body: Option<&'b [u8]>, fields: &Fields) -> Self {
        let mut picked = Self { slots: vec![ABSENT], items: Vec::new() };
        let Some(body) = body else {
            picked.add(0, Value::Leaf(Leaf::Null));
            return picked;
        };
        let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
        let scan = Scan { text, at: 0, open: Vec::new(), fields, picked };
        scan.run().unwrap_or_else(|| Self { slots: vec![ABSENT], items: Vec::new() })
    }

    /// Whether the body matches.
    pub(super) fn matches(&self, pattern: &Bound) -> bool {
        self.slot_matches(self.slots[0], pattern)
    }

    /// Recursion ends: patterns have a bounded depth.
    fn slot_matches(&self, slot: Slot, pattern: &Bound) -> bool {
        match pattern {
            Bound::Tests(tests) => Test::any(
                tests,
                self.values(slot).filter_map(|value| match value {
                    Value::Leaf(leaf) => Some(leaf),
                    Value::Object(_) => None,
                }),
            ),
            Bound::Object(fields) => {
                let mut objects = self.values(slot).filter_map(|value| match value {
                    Value::Object(first) => Some(*first),
                    Value::Leaf(_) => None,
                });
                let matches = |at: &dyn Fn(u32) -> Slot| {
                    fields.iter().all(|(position, pattern)| self.slot_matches(at(*position), pattern))
                };
                let Some(first) = objects.next() else { return matches(&|_| ABSENT) };
                std::iter::once(first)
                    .chain(objects)
                    .any(|first| matches(&|position| self.slots[(first + position) as usize]))
            }
        }
    }

    fn values(&self, slot: Slot) -> impl Iterator<Item = &Value<'b>> + Clone {
        let item = |index: u32| self.items.get(index as usize);
        std::iter::successors(item(slot.first), move |last| item(last.next)).map(|item| &item.value)
    }

    fn add(&mut self, slot: u32, value: Value<'b>) {
        let index = self.items.len() as u32;
        self.items.push(Item { value, next: NONE });
        let slot = &mut self.slots[slot as usize];
        match self.items.get_mut(slot.last as usize) {
            Some(last) => last.next = index,
            None => slot.first = index,
        }
        slot.last = index;
    }
}

/// The scan's place in the text.
struct Scan<'b, 'f> {
    text: &'b [u8],
    at: usize,
    open: Vec<Open>,
    fields: &'f Fields,
    picked: Picked<'b>,
}

/// An open bracket.
#[derive(Clone, Copy)]
enum Open {
    /// The object's node and the first of its slots, if any rule names a field of it.
    Object(Option<Want>),
    /// What becomes of the elements.
    Array(Option<Want>),
}

/// A value that some rule wants: the node it is and the slot it goes to.
#[derive(Clone, Copy)]
struct Want {
    node: u32,
    slot: u32,
}

enum Step {
    /// A value comes next.
    Value(Option<Want>),
    End,
}

impl<'b> Scan<'b, '_> {
    /// `None` when the text is not exactly one JSON value.
    fn run(mut self) -> Option<Picked<'b>> {
        std::str::from_utf8(self.text).ok()?;
        let mut step = Step::Value(Some(Want { node: ROOT, slot: 0 }));
        while let Step::Value(want) = step {
            step = self.value(want)?;
        }
        Some(self.picked)
    }

    /// Reads a leaf or an opening bracket, and goes to the next value.
    fn value(&mut self, want: Option<Want>) -> Option<Step> {
        let first = self.peek()?;
        let leaf = match first {
            b'{' | b'[' => return self.open(first, want),
            b'"' => {
                let text = self.string()?;
                want.map(|_| Leaf::Text(text.unescaped()))
            }
            b't' => self.word(b"true", Leaf::Bool(true))?,
            b'f' => self.word(b"false", Leaf::Bool(false))?,
            b'n' => self.word(b"null", Leaf::Null)?,
            _ => {
                let literal = self.number()?;
                match want {
                    Some(_) => Some(Leaf::Number(Number::from_literal(std::str::from_utf8(literal).ok()?)?)),
                    None => None,
                }
            }
        };
        if let (Some(want), Some(leaf)) = (want.filter(|want| self.fields.is_tested(want.node)), leaf) {
            self.picked.add(want.slot, Value::Leaf(leaf));
        }
        self.next()
    }

    fn open(&mut self, bracket: u8, want: Option<Want>) -> Option<Step> {
        self.at += 1;
        let opened = match bracket {
            b'{' => Open::Object(self.pick_object(want)?),
            _ => Open::Array(want),
        };
        if self.peek()? == bracket + 2 {
            self.at += 1;
            return self.next();
        }
        self.open.push(opened);
        self.enter(opened)
    }

    /// Gives an object its slots. Returns its node and the first of them if some rule names a field of it.
    fn pick_object(&mut self, want: Option<Want>) -> Option<Option<Want>> {
        let Some(Want { node, slot }) = want.filter(|want| self.fields.width(want.node) > 0) else {
            return Some(None);
        };
        let first = self.picked.slots.len();
        let end = first + self.fields.width(node);
        // More slots than this are no body that a broker carries.
        let first = u32::try_from(end).ok().map(|_| first as u32)?;
        self.picked.slots.resize(end, ABSENT);
        self.picked.add(slot, Value::Object(first));
        Some(Some(Want { node, slot: first }))
    }

    /// Goes to a member's or element's value, behind a bracket or comma.
    fn enter(&mut self, opened: Open) -> Option<Step> {
        let object = match opened {
            Open::Array(want) => return Some(Step::Value(want)),
            Open::Object(object) => object,
        };
        if self.peek()? != b'"' {
            return None;
        }
        let name = self.string()?;
        if self.peek()? != b':' {
            return None;
        }
        self.at += 1;
        let want = object.and_then(|object| {
            let (position, node) = self.fields.child(object.node, &name.unescaped())?;
            Some(Want { node, slot: object.slot + position })
        });
        if let Some(want) = want {
            // Of a name that repeats, the last value counts.
            self.picked.slots[want.slot as usize] = ABSENT;
        }
        Some(Step::Value(want))
    }

    /// Behind a value: goes to the next one, or to the end.
    fn next(&mut self) -> Option<Step> {
        loop {
            let Some(&opened) = self.open.last() else {
                return self.peek().is_none().then_some(Step::End);
            };
            let next = self.peek()?;
            self.at += 1;
            match (next, opened) {
                (b',', _) => return self.enter(opened),
                (b'}', Open::Object(_)) | (b']', Open::Array(_)) => {
                    self.open.pop();
                }
                _ => return None,
            }
        }
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.text.get(self.at)? {
                b' ' | b'\n' | b'\t' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    fn word(&mut self, word: &[u8], leaf: Leaf<'b>) -> Option<Option<Leaf<'b>>> {
        self.text[self.at..].starts_with(word).then(|| {
            self.at += word.len();
            Some(leaf)
        })
    }

    fn string(&mut self) -> Option<RawString<'b>> {
        let (string, end) = RawString::read(self.text, self.at + 1)?;
        self.at = end;
        Some(string)
    }

    fn number(&mut self) -> Option<&'b [u8]> {
        let start = self.at;
        self.skip(b"-");
        match self.text.get(self.at)? {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.skip(b".") {
            self.digits()?;
        }
        if self.skip(b"eE") {
            self.skip(b"+-");
            self.digits()?;
        }
        Some(&self.text[start..self.at])
    }

    /// Skips one byte if it is one of `bytes`.
    fn skip(&mut self, bytes: &[u8]) -> bool {
        let is_there = self.text.get(self.at).is_some_and(|byte| bytes.contains(byte));
        self.at += usize::from(is_there);
        is_there
    }

    /// Skips at least one digit.
    fn digits(&mut self) -> Option<()> {
        let length = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += length;
        (length > 0).then_some(())
    }
}
