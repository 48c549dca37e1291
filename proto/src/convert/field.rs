//! How one field is carried: each type here is a kind of field, usable as `field: Kind` in the
//! tables of the conversions.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use shoal_types::level::Level;
use shoal_types::time::Timestamp;

use super::InvalidMessage;
pub use super::registry_auth::Auths;

/// A way to carry a `T` as a `W`. Reading what was written gives the same value.
pub trait Kind<T, W> {
    /// What goes on the wire.
    fn write(value: &T) -> W;

    /// What came from the wire.
    ///
    /// # Errors
    /// Names `field`, or what is wrong below it.
    fn read(field: &str, wire: W) -> Result<T, InvalidMessage>;
}

/// [`Kind::write`] with the kind in front.
pub fn write<K: Kind<T, W>, T, W>(value: &T) -> W {
    K::write(value)
}

/// [`Kind::read`] with the kind in front.
///
/// # Errors
/// As the kind says.
pub fn read<K: Kind<T, W>, T, W>(field: &str, wire: W) -> Result<T, InvalidMessage> {
    K::read(field, wire)
}

/// A domain type with a message of its own.
trait Carried<W>: TryFrom<W, Error = InvalidMessage> {
    fn carry(&self) -> W;
}

impl<T, W> Carried<W> for T
where
    T: TryFrom<W, Error = InvalidMessage>,
    W: for<'a> From<&'a T>,
{
    fn carry(&self) -> W {
        W::from(self)
    }
}

/// As it is.
#[derive(Debug)]
pub struct Same;

impl<T: Clone> Kind<T, T> for Same {
    fn write(value: &T) -> T {
        value.clone()
    }

    fn read(_field: &str, wire: T) -> Result<T, InvalidMessage> {
        Ok(wire)
    }
}

/// Words that may be absent, which is not the same as none: the message has a flag beside the list,
/// since a list of protobuf cannot be absent.
#[derive(Debug)]
pub struct OptionalWords;

impl Kind<Option<Vec<String>>, (Vec<String>, bool)> for OptionalWords {
    fn write(value: &Option<Vec<String>>) -> (Vec<String>, bool) {
        (value.clone().unwrap_or_default(), value.as_ref().is_some_and(Vec::is_empty))
    }

    fn read(
        field: &str,
        (words, cleared): (Vec<String>, bool),
    ) -> Result<Option<Vec<String>>, InvalidMessage> {
        match (words.is_empty(), cleared) {
            (true, cleared) => Ok(cleared.then_some(words)),
            (false, false) => Ok(Some(words)),
            (false, true) => Err(InvalidMessage::new(field, "has words and is cleared")),
        }
    }
}

/// In its written form: ids, addresses.
#[derive(Debug)]
pub struct Text;

impl<T> Kind<T, String> for Text
where
    T: Display + FromStr,
    T::Err: Display,
{
    fn write(value: &T) -> String {
        value.to_string()
    }

    fn read(field: &str, wire: String) -> Result<T, InvalidMessage> {
        if wire.is_empty() {
            return Err(InvalidMessage::missing(field));
        }
        wire.parse().map_err(|e| InvalidMessage::new(field, format!("{wire:?} is refused: {e}")))
    }
}

/// In its written form, or absent.
#[derive(Debug)]
pub struct OptionalText;

impl<T> Kind<Option<T>, Option<String>> for OptionalText
where
    Text: Kind<T, String>,
{
    fn write(value: &Option<T>) -> Option<String> {
        value.as_ref().map(Text::write)
    }

    fn read(field: &str, wire: Option<String>) -> Result<Option<T>, InvalidMessage> {
        wire.map(|w| Text::read(field, w)).transpose()
    }
}

/// Several in their written form.
#[derive(Debug)]
pub struct TextList;

impl<T> Kind<Vec<T>, Vec<String>> for TextList
where
    Text: Kind<T, String>,
{
    fn write(value: &Vec<T>) -> Vec<String> {
        value.iter().map(Text::write).collect()
    }

    fn read(field: &str, wire: Vec<String>) -> Result<Vec<T>, InvalidMessage> {
        each(field, wire, Text::read)
    }
}

/// Several in their written form, by name.
#[derive(Debug)]
pub struct TextMap;

impl<T> Kind<BTreeMap<String, T>, BTreeMap<String, String>> for TextMap
where
    Text: Kind<T, String>,
{
    fn write(value: &BTreeMap<String, T>) -> BTreeMap<String, String> {
        value.iter().map(|(k, v)| (k.clone(), Text::write(v))).collect()
    }

    fn read(
        field: &str,
        wire: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, T>, InvalidMessage> {
        each_named(field, wire, Text::read)
    }
}

/// A point in time as nanoseconds since the Unix epoch.
#[derive(Debug)]
pub struct Time;

impl Kind<Timestamp, u64> for Time {
    fn write(value: &Timestamp) -> u64 {
        value.as_nanos()
    }

    fn read(_field: &str, wire: u64) -> Result<Timestamp, InvalidMessage> {
        Ok(Timestamp::from_nanos(wire))
    }
}

/// A point in time, or absent.
#[derive(Debug)]
pub struct OptionalTime;

impl Kind<Option<Timestamp>, Option<u64>> for OptionalTime {
    fn write(value: &Option<Timestamp>) -> Option<u64> {
        value.map(Timestamp::as_nanos)
    }

    fn read(_field: &str, wire: Option<u64>) -> Result<Option<Timestamp>, InvalidMessage> {
        Ok(wire.map(Timestamp::from_nanos))
    }
}

/// A duration in nanoseconds; what is longer than 584 years becomes that.
#[derive(Debug)]
pub struct Nanos;

impl Kind<Duration, u64> for Nanos {
    fn write(value: &Duration) -> u64 {
        u64::try_from(value.as_nanos()).unwrap_or(u64::MAX)
    }

    fn read(_field: &str, wire: u64) -> Result<Duration, InvalidMessage> {
        Ok(Duration::from_nanos(wire))
    }
}

/// A duration, or absent.
#[derive(Debug)]
pub struct OptionalNanos;

impl Kind<Option<Duration>, Option<u64>> for OptionalNanos {
    fn write(value: &Option<Duration>) -> Option<u64> {
        value.as_ref().map(Nanos::write)
    }

    fn read(field: &str, wire: Option<u64>) -> Result<Option<Duration>, InvalidMessage> {
        wire.map(|w| Nanos::read(field, w)).transpose()
    }
}

/// A feature level by its number; zero counts as one, as who knows of no levels is at the first.
#[derive(Debug)]
pub struct Levels;

impl Kind<Level, u32> for Levels {
    fn write(value: &Level) -> u32 {
        value.number()
    }

    fn read(_field: &str, wire: u32) -> Result<Level, InvalidMessage> {
        Ok(Level::new(wire))
    }
}

/// A number of 16 bits, for which protobuf has no type.
#[derive(Debug)]
pub struct Port;

impl Kind<u16, u32> for Port {
    fn write(value: &u16) -> u32 {
        u32::from(*value)
    }

    fn read(field: &str, wire: u32) -> Result<u16, InvalidMessage> {
        u16::try_from(wire)
            .map_err(|_| InvalidMessage::new(field, format!("is {wire}: expected at most 65535")))
    }
}

/// The length of an address's prefix, for which protobuf has no type.
#[derive(Debug)]
pub struct PrefixLength;

impl Kind<u8, u32> for PrefixLength {
    fn write(value: &u8) -> u32 {
        u32::from(*value)
    }

    fn read(field: &str, wire: u32) -> Result<u8, InvalidMessage> {
        u8::try_from(wire)
            .map_err(|_| InvalidMessage::new(field, format!("is {wire}: expected at most 128")))
    }
}

/// A message that has to be there.
#[derive(Debug)]
pub struct Message;

impl<T: Carried<W>, W> Kind<T, Option<W>> for Message {
    fn write(value: &T) -> Option<W> {
        Some(value.carry())
    }

    fn read(field: &str, wire: Option<W>) -> Result<T, InvalidMessage> {
        let wire = wire.ok_or_else(|| InvalidMessage::missing(field))?;
        T::try_from(wire).map_err(|e| e.under(field))
    }
}

/// A message that may be absent.
#[derive(Debug)]
pub struct OptionalMessage;

impl<T: Carried<W>, W> Kind<Option<T>, Option<W>> for OptionalMessage {
    fn write(value: &Option<T>) -> Option<W> {
        value.as_ref().map(T::carry)
    }

    fn read(field: &str, wire: Option<W>) -> Result<Option<T>, InvalidMessage> {
        wire.map(|w| T::try_from(w).map_err(|e| e.under(field))).transpose()
    }
}

/// A message whose absence means the same as an empty one.
#[derive(Debug)]
pub struct DefaultMessage;

impl<T: Carried<W> + Default, W> Kind<T, Option<W>> for DefaultMessage {
    fn write(value: &T) -> Option<W> {
        Some(value.carry())
    }

    fn read(field: &str, wire: Option<W>) -> Result<T, InvalidMessage> {
        Ok(OptionalMessage::read(field, wire)?.unwrap_or_default())
    }
}

/// A message that is not written where it says nothing.
#[derive(Debug)]
pub struct SparseMessage;

impl<T: Carried<W> + Default + PartialEq, W> Kind<T, Option<W>> for SparseMessage {
    fn write(value: &T) -> Option<W> {
        (*value != T::default()).then(|| value.carry())
    }

    fn read(field: &str, wire: Option<W>) -> Result<T, InvalidMessage> {
        DefaultMessage::read(field, wire)
    }
}

/// A message that has to be there, shared in memory.
#[derive(Debug)]
pub struct Shared;

impl<T: Carried<W>, W> Kind<Arc<T>, Option<W>> for Shared {
    fn write(value: &Arc<T>) -> Option<W> {
        Some(value.carry())
    }

    fn read(field: &str, wire: Option<W>) -> Result<Arc<T>, InvalidMessage> {
        Message::read(field, wire).map(Arc::new)
    }
}

/// A message that may be absent, shared in memory.
#[derive(Debug)]
pub struct OptionalShared;

impl<T: Carried<W>, W> Kind<Option<Arc<T>>, Option<W>> for OptionalShared {
    fn write(value: &Option<Arc<T>>) -> Option<W> {
        value.as_ref().map(|v| v.carry())
    }

    fn read(field: &str, wire: Option<W>) -> Result<Option<Arc<T>>, InvalidMessage> {
        Ok(OptionalMessage::read(field, wire)?.map(Arc::new))
    }
}

/// A message that is not written where it says nothing, shared in memory.
#[derive(Debug)]
pub struct SparseShared;

impl<T: Carried<W> + Default + PartialEq, W> Kind<Arc<T>, Option<W>> for SparseShared {
    fn write(value: &Arc<T>) -> Option<W> {
        SparseMessage::write(&**value)
    }

    fn read(field: &str, wire: Option<W>) -> Result<Arc<T>, InvalidMessage> {
        SparseMessage::read(field, wire).map(Arc::new)
    }
}

/// As it is, shared in memory.
#[derive(Debug)]
pub struct SharedSame;

impl<T: Clone> Kind<Arc<T>, T> for SharedSame {
    fn write(value: &Arc<T>) -> T {
        T::clone(value)
    }

    fn read(_field: &str, wire: T) -> Result<Arc<T>, InvalidMessage> {
        Ok(Arc::new(wire))
    }
}

/// A text as it is, shared in memory.
#[derive(Debug)]
pub struct SharedText;

impl Kind<Arc<str>, String> for SharedText {
    fn write(value: &Arc<str>) -> String {
        String::from(&**value)
    }

    fn read(_field: &str, wire: String) -> Result<Arc<str>, InvalidMessage> {
        Ok(wire.into())
    }
}

/// One of several: the alternatives are fields of the outer message, so they name themselves.
#[derive(Debug)]
pub struct Oneof;

impl<T: Carried<W>, W> Kind<T, Option<W>> for Oneof {
    fn write(value: &T) -> Option<W> {
        Some(value.carry())
    }

    fn read(field: &str, wire: Option<W>) -> Result<T, InvalidMessage> {
        T::try_from(wire.ok_or_else(|| InvalidMessage::missing(field))?)
    }
}

/// Messages in order.
#[derive(Debug)]
pub struct List;

impl<T: Carried<W>, W> Kind<Vec<T>, Vec<W>> for List {
    fn write(value: &Vec<T>) -> Vec<W> {
        value.iter().map(T::carry).collect()
    }

    fn read(field: &str, wire: Vec<W>) -> Result<Vec<T>, InvalidMessage> {
        each(field, wire, |at, w| T::try_from(w).map_err(|e| e.under(at)))
    }
}

/// Several messages, shared in memory.
#[derive(Debug)]
pub struct SharedList;

impl<T: Carried<W>, W> Kind<Arc<[T]>, Vec<W>> for SharedList {
    fn write(value: &Arc<[T]>) -> Vec<W> {
        value.iter().map(T::carry).collect()
    }

    fn read(field: &str, wire: Vec<W>) -> Result<Arc<[T]>, InvalidMessage> {
        List::read(field, wire).map(Into::into)
    }
}

/// Messages by name.
#[derive(Debug)]
pub struct Map;

impl<T: Carried<W>, W> Kind<BTreeMap<String, T>, BTreeMap<String, W>> for Map {
    fn write(value: &BTreeMap<String, T>) -> BTreeMap<String, W> {
        value.iter().map(|(k, v)| (k.clone(), v.carry())).collect()
    }

    fn read(field: &str, wire: BTreeMap<String, W>) -> Result<BTreeMap<String, T>, InvalidMessage> {
        each_named(field, wire, |at, w| T::try_from(w).map_err(|e| e.under(at)))
    }
}

fn each<T, W>(
    field: &str,
    wire: Vec<W>,
    mut read: impl FnMut(&str, W) -> Result<T, InvalidMessage>,
) -> Result<Vec<T>, InvalidMessage> {
    wire.into_iter().enumerate().map(|(i, w)| read(&format!("{field}[{i}]"), w)).collect()
}

fn each_named<T, W>(
    field: &str,
    wire: BTreeMap<String, W>,
    mut read: impl FnMut(&str, W) -> Result<T, InvalidMessage>,
) -> Result<BTreeMap<String, T>, InvalidMessage> {
    let entry = |(k, w): (String, W)| {
        let value = read(&format!("{field}[{k:?}]"), w)?;
        Ok((k, value))
    };
    wire.into_iter().map(entry).collect()
}

/// The number 0 of an enum: nobody has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not set")]
pub struct Unspecified;

/// A domain enum with an enum of its own on the wire, whose number 0 means that nobody has chosen.
pub trait WireChoice: Copy + TryFrom<Self::Wire, Error = Unspecified> {
    /// The enum on the wire.
    type Wire: From<Self> + Into<i32> + TryFrom<i32>;
}

fn chosen<T: WireChoice>(field: &str, number: i32) -> Result<Option<T>, InvalidMessage> {
    let wire = T::Wire::try_from(number)
        .map_err(|_| InvalidMessage::new(field, format!("has the unknown value {number}")))?;
    Ok(T::try_from(wire).ok())
}

/// An enum that has to be set.
#[derive(Debug)]
pub struct Choice;

impl<T: WireChoice> Kind<T, i32> for Choice {
    fn write(value: &T) -> i32 {
        T::Wire::from(*value).into()
    }

    fn read(field: &str, wire: i32) -> Result<T, InvalidMessage> {
        chosen(field, wire)?.ok_or_else(|| InvalidMessage::new(field, Unspecified.to_string()))
    }
}

/// An enum that means its default when it is not set.
#[derive(Debug)]
pub struct DefaultChoice;

impl<T: WireChoice + Default> Kind<T, i32> for DefaultChoice {
    fn write(value: &T) -> i32 {
        Choice::write(value)
    }

    fn read(field: &str, wire: i32) -> Result<T, InvalidMessage> {
        Ok(chosen(field, wire)?.unwrap_or_default())
    }
}

/// An enum that is absent when it is not set.
#[derive(Debug)]
pub struct OptionalChoice;

impl<T: WireChoice> Kind<Option<T>, i32> for OptionalChoice {
    fn write(value: &Option<T>) -> i32 {
        value.as_ref().map_or(0, Choice::write)
    }

    fn read(field: &str, wire: i32) -> Result<Option<T>, InvalidMessage> {
        chosen(field, wire)
    }
}
