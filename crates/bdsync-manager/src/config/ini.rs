//! INI files as Python's `configparser` reads them, which the original manager used.

use std::collections::HashMap;

/// What every section inherits from.
const DEFAULT: &str = "DEFAULT";

/// How deep `%(name)s` may refer to values that refer to others.
const MAX_DEPTH: usize = 10;

/// A fault and the line where it is, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// A value as it stands in the file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) line: usize,
}

/// One section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) entries: Vec<Entry>,
}

/// A file's sections, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ini {
    pub(crate) defaults: Section,
    pub(crate) sections: Vec<Section>,
}

impl Ini {
    /// Reads a file; every fault is found.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::default();
        for (index, line) in text.lines().enumerate() {
            reader.line(index + 1, line);
        }
        reader.end_value();
        if reader.faults.is_empty() { Ok(reader.ini) } else { Err(reader.faults) }
    }

    /// The settings of a section with those it inherits, and references resolved.
    pub(crate) fn resolve(&self, section: &Section) -> Result<Vec<Entry>, Vec<Fault>> {
        let own = section.entries.iter();
        let inherited =
            self.defaults.entries.iter().filter(|entry| !section.entries.iter().any(|own| own.key == entry.key));
        let entries: Vec<&Entry> = own.chain(inherited).collect();
        let values: HashMap<&str, &str> =
            entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_str())).collect();
        let (mut resolved, mut faults) = (Vec::new(), Vec::new());
        for entry in entries {
            match interpolate(&entry.value, &values, 1) {
                Ok(value) => resolved.push(Entry { value, ..entry.clone() }),
                Err(text) => faults.push(Fault { line: entry.line, text: format!("{}: {text}", entry.key) }),
            }
        }
        if faults.is_empty() { Ok(resolved) } else { Err(faults) }
    }
}

#[derive(Default)]
struct Reader {
    ini: Ini,
    faults: Vec<Fault>,
    /// The section that is being read; `None` before the first header.
    section: Option<usize>,
    in_defaults: bool,
    /// Whether a value is being read that further lines may continue.
    open: bool,
    indent: usize,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) {
        let text = line.trim();
        if text.starts_with(['#', ';']) {
            return;
        }
        if text.is_empty() {
            // Empty lines belong to a value that goes on behind them.
            if self.open
                && let Some(entry) = self.current()
            {
                entry.value.push('\n');
            }
            return;
        }
        let indent = line.len() - line.trim_start().len();
        if self.open && indent > self.indent {
            if let Some(entry) = self.current() {
                entry.value.push('\n');
                entry.value.push_str(text);
            }
            return;
        }
        self.end_value();
        self.indent = indent;
        let name = text.strip_prefix('[').and_then(|rest| rest.rfind(']').map(|end| &rest[..end]));
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            return self.header(number, name);
        }
        let Some(delimiter) = text.find(['=', ':']) else {
            return self.fault(number, format!("expected NAME = VALUE, found {text}"));
        };
        if self.section.is_none() && !self.in_defaults {
            return self.fault(number, "a setting in front of the first [section]".into());
        }
        let key = text[..delimiter].trim_end().to_lowercase();
        if key.is_empty() {
            return self.fault(number, "a value without a name".into());
        }
        let value = text[delimiter + 1..].trim().to_string();
        let section = self.current_section();
        if section.entries.iter().any(|entry| entry.key == key) {
            let text = format!("{key} is given twice in [{}]", section.name);
            return self.fault(number, text);
        }
        section.entries.push(Entry { key, value, line: number });
        self.open = true;
    }

    fn header(&mut self, line: usize, name: &str) {
        self.in_defaults = name == DEFAULT;
        if self.in_defaults {
            self.ini.defaults.name = DEFAULT.into();
            self.ini.defaults.line = line;
            return;
        }
        if self.ini.sections.iter().any(|section| section.name == name) {
            self.fault(line, format!("[{name}] is there twice"));
        }
        self.ini.sections.push(Section { name: name.into(), line, entries: Vec::new() });
        self.section = Some(self.ini.sections.len() - 1);
    }

    fn current_section(&mut self) -> &mut Section {
        match self.section {
            Some(index) if !self.in_defaults => &mut self.ini.sections[index],
            _ => &mut self.ini.defaults,
        }
    }

    fn current(&mut self) -> Option<&mut Entry> {
        self.current_section().entries.last_mut()
    }

    fn end_value(&mut self) {
        if std::mem::take(&mut self.open)
            && let Some(entry) = self.current()
        {
            entry.value.truncate(entry.value.trim_end().len());
        }
    }

    fn fault(&mut self, line: usize, text: String) {
        self.faults.push(Fault { line, text });
    }
}

/// Puts values in place of `%(name)s`, and a per cent sign in place of two.
fn interpolate(value: &str, values: &HashMap<&str, &str>, depth: usize) -> Result<String, String> {
    if depth > MAX_DEPTH {
        return Err(format!("references that are more than {MAX_DEPTH} deep, or in a circle"));
    }
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix('%') {
            out.push('%');
            rest = behind;
        } else if let Some((name, behind)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(")s")) {
            let name = name.to_lowercase();
            let found = values.get(name.as_str()).ok_or_else(|| format!("%({name})s refers to nothing"))?;
            out.push_str(&interpolate(found, values, depth + 1)?);
            rest = behind;
        } else {
            return Err("a % must be followed by % or by (NAME)s".into());
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str, section: &str) -> Vec<(String, String)> {
        let ini = Ini::parse(text).unwrap();
        let section = ini.sections.iter().find(|found| found.name == section).unwrap();
        ini.resolve(section).unwrap().into_iter().map(|entry| (entry.key, entry.value)).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn sections_inherit_and_refer() {
        let text = "[DEFAULT]\nBase: /srv\nrate=5%%\n\n[a b]\npath = %(base)s/x ; no comment\nrate = 1\n";
        assert_eq!(resolved(text, "a b"), pairs(&[("path", "/srv/x ; no comment"), ("rate", "1"), ("base", "/srv")]));
    }

    #[test]
    fn values_go_on_in_indented_lines() {
        let text = "[a]\nx = one\n   two\n# comment\n\n   three\n\ny : \n  z\n";
        assert_eq!(resolved(text, "a"), pairs(&[("x", "one\ntwo\n\nthree"), ("y", "\nz")]));
    }

    #[test]
    fn every_fault_is_found_with_its_line() {
        let faults = Ini::parse("x = 1\n[a]\nnonsense\ny = 1\ny = 2\n[a]\n= 3\n").unwrap_err();
        assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [1, 3, 5, 6, 7]);
    }

    #[test]
    fn references_to_nothing_and_in_circles_are_faults() {
        for value in ["%(no)s", "%(x)s", "50%", "%x"] {
            let ini = Ini::parse(&format!("[a]\nx = {value}\n")).unwrap();
            assert_eq!(ini.resolve(&ini.sections[0]).unwrap_err().len(), 1, "{value}");
        }
    }
}
