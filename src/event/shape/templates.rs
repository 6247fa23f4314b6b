//! The key lists of one batch's events.

use lagless_protocol::frames::Template;

/// The key lists that a batch's events follow, in the order they first came. Kept from batch to batch with
/// [`Templates::clear`], or made anew.
///
/// Events differ in their keys (a CloudEvent brings its own), and a key that an event lacks must not show up in it;
/// so the lists are learned from the events. In each list the data's key is the last.
#[derive(Debug, Default)]
pub struct Templates {
    lists: Vec<Keys>,
}

#[derive(Debug)]
enum Keys {
    Fixed(&'static [&'static str]),
    Learned(Vec<Box<str>>),
}

impl Templates {
    /// The lists as they travel in a frame.
    pub fn as_frames(&self) -> Vec<Template<'_>> {
        self.lists.iter().map(Keys::as_frame).collect()
    }

    /// Name of the key that holds the data of events that follow `template`.
    pub fn data_key(&self, template: u32) -> &str {
        match &self.lists[template as usize] {
            Keys::Fixed(keys) => keys[keys.len() - 1],
            Keys::Learned(keys) => &keys[keys.len() - 1],
        }
    }

    /// Forgets the lists: a new batch begins.
    pub fn clear(&mut self) {
        self.lists.clear();
    }

    /// The index of a list known beforehand.
    pub(super) fn fixed(&mut self, keys: &'static [&'static str]) -> u32 {
        self.find_or_add(|list| matches!(list, Keys::Fixed(known) if std::ptr::eq(*known, keys)), || Keys::Fixed(keys))
    }

    /// The index of the list that equals `keys`.
    pub(super) fn learn(&mut self, keys: &[&str]) -> u32 {
        self.find_or_add(
            |list| match list {
                Keys::Fixed(_) => false,
                Keys::Learned(known) => known.len() == keys.len() && known.iter().zip(keys).all(|(a, b)| &**a == *b),
            },
            || Keys::Learned(keys.iter().map(|key| (*key).into()).collect()),
        )
    }

    fn find_or_add(&mut self, is_it: impl FnMut(&Keys) -> bool, make: impl FnOnce() -> Keys) -> u32 {
        let index = self.lists.iter().position(is_it).unwrap_or_else(|| {
            self.lists.push(make());
            self.lists.len() - 1
        });
        index as u32
    }
}

impl Keys {
    fn as_frame(&self) -> Template<'_> {
        let keys: Vec<&str> = match self {
            Keys::Fixed(keys) => keys.to_vec(),
            Keys::Learned(keys) => keys.iter().map(AsRef::as_ref).collect(),
        };
        let data_key = (keys.len() - 1) as u32;
        Template { keys, data_key }
    }
}
