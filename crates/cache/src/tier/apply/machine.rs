//! The steps of a move. Pure.
//!
//! Each effect may be done twice and is then done once: whoever was killed between an effect and its record does it again.

use crate::tier::Place;

/// What a move consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// From the disk into the object store.
    Spill,
    /// From one class into another.
    Change,
    /// From the object store onto the disk.
    Fetch,
    /// From the disk to nowhere.
    DropLocal,
    /// From the object store to nowhere.
    DropStored,
    /// Nothing is to be done: what was dropped comes with the next request for it.
    Nothing,
}

impl Route {
    pub(super) const fn of(from: &Place, to: &Place) -> Self {
        match (from, to) {
            (Place::Local, Place::Stored(_)) => Self::Spill,
            (Place::Stored(_), Place::Stored(_)) => Self::Change,
            (Place::Stored(_), Place::Local) => Self::Fetch,
            (Place::Local, Place::Dropped) => Self::DropLocal,
            (Place::Stored(_), Place::Dropped) => Self::DropStored,
            (Place::Dropped, _) | (Place::Local, Place::Local) => Self::Nothing,
        }
    }
}

/// How far a move has come: what is on record. The numbers are in databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is decided.
    Begun = 0,
    /// A restore was asked for.
    Asked = 1,
    /// The object can be read.
    Readable = 2,
    /// The bytes are where they should be. Where they were they are as well.
    Placed = 3,
}

impl Step {
    pub(super) const fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Begun),
            1 => Some(Self::Asked),
            2 => Some(Self::Readable),
            3 => Some(Self::Placed),
            _ => None,
        }
    }
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Ask for a restore.
    Ask,
    /// See whether the restore is done.
    Await,
    /// Bring the file into the object store.
    Put,
    /// Bring the object into its class.
    Copy,
    /// Bring the object onto the disk.
    Fetch,
    /// See that the bytes are where they should be, and take them away where they were.
    Leave,
}

/// What follows `step`; `None` if the move is over before it began.
pub(super) const fn effect(route: Route, is_archived: bool, step: Step) -> Option<Effect> {
    Some(match (route, step) {
        (Route::Nothing, _) => return None,
        (Route::Spill, Step::Begun) => Effect::Put,
        (Route::Change | Route::Fetch, Step::Begun) if is_archived => Effect::Ask,
        (Route::Change, Step::Begun | Step::Readable) | (Route::Spill, Step::Readable) => {
            Effect::Copy
        }
        (Route::Fetch, Step::Begun | Step::Readable) => Effect::Fetch,
        (Route::Spill | Route::Change | Route::Fetch, Step::Asked) => Effect::Await,
        (Route::DropLocal | Route::DropStored, _)
        | (Route::Spill | Route::Change | Route::Fetch, Step::Placed) => Effect::Leave,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::ClassName;

    /// The effects of a move in which nothing goes wrong.
    fn walked(from: &Place, to: &Place, is_archived: bool) -> Vec<Effect> {
        let route = Route::of(from, to);
        let mut effects = Vec::new();
        let mut step = Step::Begun;
        while let Some(next) = effect(route, is_archived, step) {
            effects.push(next);
            step = match next {
                Effect::Ask => Step::Asked,
                Effect::Await => Step::Readable,
                Effect::Put | Effect::Copy | Effect::Fetch => Step::Placed,
                Effect::Leave => break,
            };
        }
        effects
    }

    #[test]
    fn nothing_is_taken_away_before_it_is_elsewhere() {
        let class = |name| Place::Stored(ClassName::new(name));
        let (standard, archive) = (class("STANDARD"), class("GLACIER"));
        use Effect::{Ask, Await, Copy, Fetch, Leave, Put};
        let table: [(&Place, &Place, bool, &[Effect]); 8] = [
            (&Place::Local, &standard, false, &[Put, Leave]),
            (&standard, &archive, false, &[Copy, Leave]),
            (&archive, &standard, true, &[Ask, Await, Copy, Leave]),
            (&archive, &Place::Local, true, &[Ask, Await, Fetch, Leave]),
            (&standard, &Place::Local, false, &[Fetch, Leave]),
            (&archive, &Place::Dropped, true, &[Leave]),
            (&Place::Local, &Place::Dropped, false, &[Leave]),
            (&Place::Dropped, &standard, false, &[]),
        ];
        for (from, to, is_archived, expected) in table {
            assert_eq!(
                walked(from, to, is_archived),
                expected,
                "{from:?} to {to:?}"
            );
        }
    }

    #[test]
    fn steps_are_known_by_their_numbers() {
        for step in [Step::Begun, Step::Asked, Step::Readable, Step::Placed] {
            assert_eq!(Step::from_number(step as i64), Some(step));
        }
        assert_eq!(Step::from_number(4), None);
    }
}
