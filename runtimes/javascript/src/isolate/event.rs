//! How events enter V8: one file, one interface.
//!
//! An event object has its keys as own enumerable data properties in the template's order, and costs nothing until one
//! is touched: the first touch of a metadata key parses the event's metadata, the first touch of the data key parses
//! that event's own payload. Values are kept, so that `e.data === e.data` and changes stay.
//!
//! Where the bytes live: an event object refers (through an internal field) to its batch's *holder*, a small object
//! that stands for an entry in [`Events`], which owns the batch. The entry goes when V8 has collected the holder, that
//! is when no event object of the batch is left. No pointer is stored in V8, so nothing can dangle.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use base64::Engine;
use deno_runtime::deno_core::v8;

use crate::batch::{Batch, Keys, Payloads};

/// Internal fields of an event object.
const HOLDER: usize = 0;
const INDEX: usize = 1;
/// The event's metadata as an object, once parsed.
const METADATA: usize = 2;
const DATA: usize = 3;
/// `true` once `DATA` holds the value.
const DATA_KNOWN: usize = 4;
const FIELDS: usize = 5;

/// The batches whose bytes event objects may still ask for, and the cached shapes of event objects.
#[derive(Default)]
pub struct Events {
    held: RefCell<HashMap<u32, Held>>,
    next: Cell<u32>,
    /// Bytes of data touched since they were last asked for.
    parsed_bytes: Cell<u64>,
    /// Entries whose holder V8 has collected.
    collected: Rc<RefCell<Vec<u32>>>,
    /// One per key list. Few by nature: a key list belongs to a trigger's shape, not to an event.
    shapes: RefCell<HashMap<Keys, v8::Global<v8::Function>>>,
}

struct Held {
    batch: Rc<Batch>,
    /// Keeps the finalizer alive that reports the collection.
    _holder: v8::Weak<v8::Object>,
}

/// What makes the event objects of one batch.
pub struct BatchObjects {
    holder: v8::Global<v8::Object>,
    shapes: Vec<v8::Global<v8::Function>>,
}

impl Events {
    /// Takes a batch in. `None` when V8 is out of memory or terminating.
    pub fn take_in(&self, scope: &mut v8::PinScope<'_, '_>, batch: &Rc<Batch>) -> Option<BatchObjects> {
        self.sweep();
        let shapes = batch.all_keys().iter().map(|keys| self.shape(scope, keys)).collect::<Option<Vec<_>>>()?;
        let key = self.next.get();
        self.next.set(key.wrapping_add(1));
        let template = v8::ObjectTemplate::new(scope);
        template.set_internal_field_count(1);
        let holder = template.new_instance(scope)?;
        let number = v8::Integer::new_from_unsigned(scope, key);
        holder.set_internal_field(0, number.into());
        let collected = self.collected.clone();
        let finalizer = Box::new(move || collected.borrow_mut().push(key));
        let weak = v8::Weak::with_guaranteed_finalizer(scope, holder, finalizer);
        self.held.borrow_mut().insert(key, Held { batch: batch.clone(), _holder: weak });
        Some(BatchObjects { holder: v8::Global::new(scope, holder), shapes })
    }

    /// How many bytes of data have been touched since the last call.
    pub fn take_parsed_bytes(&self) -> u64 {
        self.parsed_bytes.take()
    }

    /// Lets go of everything; called before the isolate is dropped.
    pub fn clear(&self) {
        self.held.borrow_mut().clear();
        self.shapes.borrow_mut().clear();
    }

    /// The batch and the index behind an event object or a context.
    pub fn find(&self, scope: &mut v8::PinScope<'_, '_>, holder: v8::Local<'_, v8::Object>) -> Option<Rc<Batch>> {
        let key = v8::Local::<v8::Value>::try_from(holder.get_internal_field(scope, 0)?).ok()?.uint32_value(scope)?;
        self.held.borrow().get(&key).map(|held| held.batch.clone())
    }

    fn count(&self, bytes: usize) {
        self.parsed_bytes.set(self.parsed_bytes.get() + bytes as u64);
    }

    fn sweep(&self) {
        let collected = std::mem::take(&mut *self.collected.borrow_mut());
        let mut held = self.held.borrow_mut();
        for key in collected {
            held.remove(&key);
        }
    }

    fn shape(&self, scope: &mut v8::PinScope<'_, '_>, keys: &Keys) -> Option<v8::Global<v8::Function>> {
        if let Some(shape) = self.shapes.borrow().get(keys) {
            return Some(shape.clone());
        }
        let template = v8::FunctionTemplate::builder(nothing).build(scope);
        let instance = template.instance_template(scope);
        instance.set_internal_field_count(FIELDS);
        // V8 puts a template's native properties onto instances last first.
        for (position, name) in keys.names.iter().enumerate().rev() {
            let name = v8::String::new_from_utf8(scope, name.as_bytes(), v8::NewStringType::Internalized)?;
            let is_data = v8::Boolean::new(scope, position == keys.data_key);
            let accessor = v8::AccessorConfiguration::new(get).setter(set).data(is_data.into());
            instance.set_accessor_with_configuration(name.into(), accessor);
        }
        let function = template.get_function(scope)?;
        // Instances are to be plain objects for `Object.getPrototypeOf`.
        let plain = v8::Object::new(scope).get_prototype(scope)?;
        let prototype = v8::String::new(scope, "prototype")?;
        function.set(scope, prototype.into(), plain)?;
        let shape = v8::Global::new(scope, function);
        self.shapes.borrow_mut().insert(keys.clone(), shape.clone());
        Some(shape)
    }
}

impl BatchObjects {
    /// The object for one event of the batch, and the holder.
    pub fn event<'s>(
        &self,
        scope: &mut v8::PinScope<'s, '_>,
        batch: &Batch,
        index: u32,
    ) -> Option<(v8::Local<'s, v8::Object>, v8::Local<'s, v8::Object>)> {
        let holder = v8::Local::new(scope, &self.holder);
        let shape = v8::Local::new(scope, &self.shapes[batch.template(index)]);
        let event = shape.new_instance(scope, &[])?;
        let number = v8::Integer::new_from_unsigned(scope, index);
        event.set_internal_field(HOLDER, holder.into());
        event.set_internal_field(INDEX, number.into());
        Some((event, holder))
    }
}

/// Instances come from the shape's template; constructing one does nothing more.
fn nothing(_: &mut v8::PinScope<'_, '_>, _: v8::FunctionCallbackArguments<'_>, _: v8::ReturnValue<'_, v8::Value>) {}

/// A property is read. An exception is left pending for the reader.
fn get<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    name: v8::Local<'s, v8::Name>,
    args: v8::PropertyCallbackArguments<'s>,
    mut value: v8::ReturnValue<'_, v8::Value>,
) {
    let read = match args.data().is_true() {
        true => read_data(scope, args.holder()),
        false => read_metadata(scope, args.holder(), name),
    };
    if let Some(read) = read {
        value.set(read);
    }
}

/// A property is assigned.
fn set<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    name: v8::Local<'s, v8::Name>,
    value: v8::Local<'s, v8::Value>,
    args: v8::PropertyCallbackArguments<'s>,
    _: v8::ReturnValue<'_, ()>,
) {
    let object = args.holder();
    if args.data().is_true() {
        keep_data(scope, object, value);
    } else if let Some(metadata) = metadata(scope, object) {
        // None only with an exception pending, which is for the writer.
        let _ = metadata.create_data_property(scope, name, value);
    }
}

fn field<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    object: v8::Local<'s, v8::Object>,
    field: usize,
) -> Option<v8::Local<'s, v8::Value>> {
    v8::Local::<v8::Value>::try_from(object.get_internal_field(scope, field)?).ok()
}

fn source<'s>(scope: &mut v8::PinScope<'s, '_>, object: v8::Local<'s, v8::Object>) -> Option<(Rc<Batch>, u32)> {
    let holder = v8::Local::<v8::Object>::try_from(field(scope, object, HOLDER)?).ok()?;
    let index = field(scope, object, INDEX)?.uint32_value(scope)?;
    let desk = super::natives::desk(scope);
    Some((desk.events.find(scope, holder)?, index))
}

fn read_data<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    object: v8::Local<'s, v8::Object>,
) -> Option<v8::Local<'s, v8::Value>> {
    if field(scope, object, DATA_KNOWN)?.is_true() {
        return field(scope, object, DATA);
    }
    let (batch, index) = source(scope, object)?;
    let data = batch.data(index);
    super::natives::desk(scope).events.count(data.len());
    let value = match data {
        Payloads::Null => v8::null(scope).into(),
        Payloads::Json(json) => {
            let text = string(scope, json)?;
            v8::json::parse(scope, text)?
        }
        Payloads::Text(text) => string(scope, text)?.into(),
        Payloads::Bytes(bytes) => {
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            string(scope, text.as_bytes())?.into()
        }
    };
    keep_data(scope, object, value);
    Some(value)
}

fn keep_data<'s>(scope: &mut v8::PinScope<'s, '_>, object: v8::Local<'s, v8::Object>, value: v8::Local<'s, v8::Value>) {
    object.set_internal_field(DATA, value.into());
    let known = v8::Boolean::new(scope, true);
    object.set_internal_field(DATA_KNOWN, known.into());
}

/// Own properties only: what others have put on `Object.prototype` is none of the event's.
fn read_metadata<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    object: v8::Local<'s, v8::Object>,
    name: v8::Local<'s, v8::Name>,
) -> Option<v8::Local<'s, v8::Value>> {
    let metadata = metadata(scope, object)?;
    match metadata.has_own_property(scope, name)? {
        true => metadata.get(scope, name.into()),
        false => Some(v8::undefined(scope).into()),
    }
}

/// The event's metadata as an object.
fn metadata<'s>(
    scope: &mut v8::PinScope<'s, '_>,
    object: v8::Local<'s, v8::Object>,
) -> Option<v8::Local<'s, v8::Object>> {
    if let Ok(metadata) = v8::Local::<v8::Object>::try_from(field(scope, object, METADATA)?) {
        return Some(metadata);
    }
    let (batch, index) = source(scope, object)?;
    let text = string(scope, batch.metadata(index))?;
    let metadata = v8::json::parse(scope, text)?.to_object(scope)?;
    object.set_internal_field(METADATA, metadata.into());
    Some(metadata)
}

/// A string, or a pending `RangeError` when it is longer than V8 allows.
pub fn string<'s>(scope: &mut v8::PinScope<'s, '_>, text: &[u8]) -> Option<v8::Local<'s, v8::String>> {
    let made = v8::String::new_from_utf8(scope, text, v8::NewStringType::Normal);
    if made.is_none() {
        let message = v8::String::new(scope, "the event's text is too long for a string")?;
        let error = v8::Exception::range_error(scope, message);
        scope.throw_exception(error);
    }
    made
}
