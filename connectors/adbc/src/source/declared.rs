//! DuckDB's own words for types, taken apart: `STRUCT(a INTEGER, "b c" DECIMAL(9,2)[])[3]`.

/// A type as DuckDB writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Declared {
    /// A type without parts, by its name in capitals; parameters that do not change its values'
    /// form (the coordinate system of `GEOMETRY`) are left out.
    Plain(String),
    /// `DECIMAL(precision, scale)`.
    Decimal(u8, i8),
    /// `ENUM(…)`: its labels are of no matter here.
    Enum,
    /// `T[]`.
    List(Box<Declared>),
    /// `T[3]`.
    Array(Box<Declared>, i32),
    /// `STRUCT(name T, …)`.
    Struct(Vec<(String, Declared)>),
    /// `MAP(K, V)`.
    Map(Box<Declared>, Box<Declared>),
    /// `UNION(tag T, …)`: its members are of no matter here.
    Union,
}

impl Declared {
    /// Understands a type; `None` when it is not written as DuckDB writes types.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut reader = Reader { rest: text.trim() };
        let parsed = reader.declared()?;
        reader.rest.trim().is_empty().then_some(parsed)
    }

    /// Whether values of another type than the column's are inside, `wanted` says of which.
    pub(crate) fn contains(&self, wanted: &dyn Fn(&Self) -> bool) -> bool {
        wanted(self)
            || match self {
                Self::List(item) | Self::Array(item, _) => item.contains(wanted),
                Self::Struct(fields) => fields.iter().any(|(_, field)| field.contains(wanted)),
                Self::Map(key, value) => key.contains(wanted) || value.contains(wanted),
                Self::Plain(_) | Self::Decimal(..) | Self::Enum | Self::Union => false,
            }
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip(&mut self, prefix: &str) -> bool {
        let trimmed = self.rest.trim_start();
        match trimmed.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// A type with the brackets behind it.
    fn declared(&mut self) -> Option<Declared> {
        let mut declared = self.base()?;
        while self.skip("[") {
            let end = self.rest.find(']')?;
            let length = self.rest[..end].trim();
            declared = match length {
                "" => Declared::List(Box::new(declared)),
                _ => Declared::Array(Box::new(declared), length.parse().ok()?),
            };
            self.rest = &self.rest[end + 1..];
        }
        Some(declared)
    }

    fn base(&mut self) -> Option<Declared> {
        let name = self.words()?;
        if !self.rest.starts_with('(') {
            return Some(Declared::Plain(name));
        }
        match name.as_str() {
            "STRUCT" => self.members().map(Declared::Struct),
            "MAP" => {
                self.skip("(");
                let key = self.declared()?;
                self.skip(",").then_some(())?;
                let value = self.declared()?;
                self.skip(")").then(|| Declared::Map(Box::new(key), Box::new(value)))
            }
            "UNION" => self.members().map(|_| Declared::Union),
            "ENUM" => self.parameters().map(|_| Declared::Enum),
            "DECIMAL" => {
                let (precision, scale) = self.parameters()?.split_once(',')?;
                let precision = precision.trim().parse().ok()?;
                Some(Declared::Decimal(precision, scale.trim().parse().ok()?))
            }
            _ => self.parameters().map(|_| Declared::Plain(name)),
        }
    }

    /// The words of a type's name, up to what cannot belong to it.
    fn words(&mut self) -> Option<String> {
        if self.rest.trim_start().starts_with('"') {
            return self.identifier();
        }
        let text = self.rest.trim_start();
        let end = text.find(|c: char| "()[],\"'".contains(c)).unwrap_or(text.len());
        let name = text[..end].split_whitespace().collect::<Vec<_>>().join(" ");
        self.rest = text[end..].trim_start();
        (!name.is_empty()).then(|| name.to_ascii_uppercase())
    }

    /// `(name T, …)`.
    fn members(&mut self) -> Option<Vec<(String, Declared)>> {
        self.skip("(").then_some(())?;
        let mut members = Vec::new();
        loop {
            let name = self.identifier()?;
            members.push((name, self.declared()?));
            if self.skip(")") {
                return Some(members);
            }
            self.skip(",").then_some(())?;
        }
    }

    /// A name, quoted where it has to be.
    fn identifier(&mut self) -> Option<String> {
        let text = self.rest.trim_start();
        let Some(quoted) = text.strip_prefix('"') else {
            let end = text.find(|c: char| c.is_whitespace() || "(),".contains(c))?;
            self.rest = &text[end..];
            return (end > 0).then(|| text[..end].to_owned());
        };
        let mut name = String::new();
        let mut rest = quoted;
        loop {
            let end = rest.find('"')?;
            name.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            match rest.strip_prefix('"') {
                Some(more) => {
                    name.push('"');
                    rest = more;
                }
                None => {
                    self.rest = rest;
                    return Some(name);
                }
            }
        }
    }

    /// What is between a parenthesis and its partner, which texts in quotes do not hide.
    fn parameters(&mut self) -> Option<&'a str> {
        self.skip("(").then_some(())?;
        let text = self.rest;
        let (mut depth, mut quote) = (1, None);
        for (at, c) in text.char_indices() {
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (Some(_), _) => {}
                (None, '\'' | '"') => quote = Some(c),
                (None, '(') => depth += 1,
                (None, ')') => depth -= 1,
                (None, _) => {}
            }
            if depth == 0 {
                self.rest = text[at + 1..].trim_start();
                return Some(&text[..at]);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(name: &str) -> Declared {
        Declared::Plain(name.to_owned())
    }

    #[test]
    fn types_are_taken_apart_as_they_are_written() {
        let list = |item| Declared::List(Box::new(item));
        for (text, declared) in [
            ("INTEGER", plain("INTEGER")),
            ("TIME WITH TIME ZONE", plain("TIME WITH TIME ZONE")),
            ("GEOMETRY('EPSG:4326')", plain("GEOMETRY")),
            ("DECIMAL(18,3)", Declared::Decimal(18, 3)),
            ("ENUM('a', 'it''s (b)', ')')[]", list(Declared::Enum)),
            ("VARCHAR[][3]", Declared::Array(Box::new(list(plain("VARCHAR"))), 3)),
            (
                "MAP(VARCHAR, STRUCT(\"a \"\"b\" TIMESTAMP WITH TIME ZONE, c INTEGER[]))",
                Declared::Map(
                    Box::new(plain("VARCHAR")),
                    Box::new(Declared::Struct(vec![
                        ("a \"b".to_owned(), plain("TIMESTAMP WITH TIME ZONE")),
                        ("c".to_owned(), list(plain("INTEGER"))),
                    ])),
                ),
            ),
            ("UNION(n INTEGER, s VARCHAR)", Declared::Union),
            ("\"NULL\"", plain("NULL")),
        ] {
            assert_eq!(Declared::parse(text), Some(declared), "{text}");
        }
        for wrong in ["", "STRUCT(a", "INTEGER]", "MAP(VARCHAR)", "DECIMAL(x,y)"] {
            assert_eq!(Declared::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_inside_is_found_at_any_depth() {
        let union = |text| Declared::parse(text).unwrap().contains(&|t| *t == Declared::Union);
        assert!(union("UNION(a INTEGER)") && union("MAP(VARCHAR, STRUCT(u UNION(a INTEGER))[])"));
        assert!(!union("STRUCT(\"UNION(\" INTEGER)"));
    }
}
