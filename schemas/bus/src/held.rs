//! What a lake holds of a stream: said to a bus before it is read.

use bodycam_record::Id16;

/// What a lake holds of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// First position of the newest generation that the lake does not hold.
    pub position: i64,
    /// What tells the newest generation from others of the name, where its producer has said it.
    pub origin: Option<Id16>,
    /// The generations before: their origins, and the first position of each that the lake does not hold.
    pub older: Vec<(Id16, i64)>,
}

impl Held {
    /// Whether everything before `to` of the stream with this origin rests in the lake, as an older generation.
    pub fn has_in_older(&self, origin: Id16, to: i64) -> bool {
        self.origin != Some(origin) && self.end_in_older(origin).is_some_and(|end| to <= end)
    }

    /// What it is once the stream goes on as one of this origin: from its first record, or where an older generation of
    /// the same origin ends.
    pub fn followed_by(mut self, origin: Option<Id16>) -> Self {
        let position = origin.and_then(|origin| self.end_in_older(origin)).unwrap_or(0);
        self.older.extend(self.origin.map(|known| (known, self.position)));
        Self { position, origin, older: self.older }
    }

    fn end_in_older(&self, origin: Id16) -> Option<i64> {
        self.older.iter().filter(|(known, _)| *known == origin).map(|(_, end)| *end).max()
    }
}
