//! Finding relations, functions and columns in parts of a parse tree by the names of their types, whatever
//! lies around them.
//!
//! The tree has some 270 node types and grows with every PostgreSQL. [`walk`](super::walk) understands those
//! that statements are made of; what it does not understand is searched here. Invariant: no relation and no
//! function is missed because it stands in an unusual place.

use std::fmt::Error;

use serde::ser::{self, Serialize, Serializer};

/// What was found, in the order of the tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Schema (empty when not given) and name.
    pub relations: Vec<(String, String)>,
    /// Parts of each function's name.
    pub functions: Vec<Vec<String>>,
    /// Parts of each column reference; `*` for all.
    pub columns: Vec<Vec<String>>,
}

/// Searches a part of a parse tree.
pub fn search(part: &impl Serialize) -> Found {
    let mut search = Search::default();
    // Only the serializer below could fail, and it does not.
    let _ = part.serialize(&mut search);
    search.found
}

#[derive(Default)]
struct Search {
    found: Found,
    /// Set while the parts of a name are being gathered.
    name: Option<Vec<String>>,
    schema: String,
    relation: String,
}

/// What kind of struct is being looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Relation,
    Function,
    Column,
    Other,
}

/// The fields of one struct.
struct Fields<'a> {
    search: &'a mut Search,
    within: Within,
}

impl Search {
    fn text(&mut self, part: &(impl Serialize + ?Sized)) -> String {
        let before = self.name.replace(Vec::new());
        let _ = part.serialize(&mut *self);
        std::mem::replace(&mut self.name, before).unwrap_or_default().concat()
    }

    fn parts(&mut self, part: &(impl Serialize + ?Sized)) -> Vec<String> {
        let before = self.name.replace(Vec::new());
        let _ = part.serialize(&mut *self);
        std::mem::replace(&mut self.name, before).unwrap_or_default()
    }
}

impl ser::SerializeStruct for Fields<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        match (self.within, key) {
            (Within::Relation, "schemaname") => self.search.schema = self.search.text(value),
            (Within::Relation, "relname") => self.search.relation = self.search.text(value),
            (Within::Function, "funcname") => {
                let name = self.search.parts(value);
                self.search.found.functions.push(name);
            }
            (Within::Column, "fields") => {
                let name = self.search.parts(value);
                self.search.found.columns.push(name);
            }
            _ => value.serialize(&mut *self.search)?,
        }
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        if self.within == Within::Relation {
            let relation =
                (std::mem::take(&mut self.search.schema), std::mem::take(&mut self.search.relation));
            self.search.found.relations.push(relation);
        }
        Ok(())
    }
}

macro_rules! leaves {
    ($($method:ident: $ty:ty),*) => {
        $(fn $method(self, _: $ty) -> Result<(), Error> { Ok(()) })*
    };
}

impl<'a> Serializer for &'a mut Search {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Fields<'a>;

    leaves! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_f32: f32,
        serialize_f64: f64, serialize_char: char, serialize_bytes: &[u8], serialize_unit_struct: &'static str
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        if let Some(name) = &mut self.name {
            name.push(text.to_owned());
        }
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Fields<'a>, Error> {
        let within = match name {
            "RangeVar" => Within::Relation,
            "FuncCall" => Within::Function,
            "ColumnRef" => Within::Column,
            "AStar" => {
                if let Some(name) = &mut self.name {
                    name.push("*".to_owned());
                }
                Within::Other
            }
            _ => Within::Other,
        };
        Ok(Fields { search: self, within })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Fields<'a>, Error> {
        Ok(Fields { search: self, within: Within::Other })
    }
}

macro_rules! lists {
    ($($list:ident $method:ident),*) => {
        $(impl ser::$list for &mut Search {
            type Ok = ();
            type Error = Error;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                value.serialize(&mut **self)
            }
            fn end(self) -> Result<(), Error> {
                Ok(())
            }
        })*
    };
}

lists!(
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
);

impl ser::SerializeMap for &mut Search {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, _: &T) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}

impl ser::SerializeStructVariant for Fields<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(&mut *self.search)
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_functions_and_columns_are_found_in_unusual_places() {
        let tree = pg_query::parse(
            "SELECT JSON_OBJECT('a': (SELECT c.card FROM shop.customers c WHERE f(x.*) > 1), 'b': pg_catalog.lower(y))",
            0,
        )
        .unwrap();
        let found = search(&tree.protobuf);
        assert_eq!(found.relations, [("shop".to_owned(), "customers".to_owned())]);
        assert_eq!(
            found.functions,
            [vec!["f".to_owned()], vec!["pg_catalog".to_owned(), "lower".to_owned()]]
        );
        assert_eq!(
            found.columns,
            [
                vec!["c".to_owned(), "card".to_owned()],
                vec!["x".to_owned(), "*".to_owned()],
                vec!["y".to_owned()]
            ]
        );
    }
}
