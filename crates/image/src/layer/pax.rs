//! The records of an extended header (POSIX.1-2017 pax, "pax Extended Header").

use orlop_sys::beneath::FileTime;

use super::Limits;
use super::error::TarError;

/// What one extended header says about the entry after it.
#[derive(Debug, Default)]
pub(crate) struct Extended {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link_path: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<FileTime>,
    pub(crate) atime: Option<FileTime>,
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: SparseRecords,
}

/// The three ways GNU tar has written sparse maps into extended headers.
#[derive(Debug, Default)]
pub(crate) struct SparseRecords {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) real_size: Option<u64>,
    /// Format 0.1: the whole map in one record.
    pub(crate) map: Option<Vec<u8>>,
    /// Format 0.0: offsets and lengths, one record each, in turn.
    pub(crate) pairs: Vec<u64>,
}

impl SparseRecords {
    /// Whether any of the formats is announced.
    pub(crate) fn is_sparse(&self) -> bool {
        self.major.is_some()
            || self.map.is_some()
            || !self.pairs.is_empty()
            || self.real_size.is_some()
    }
}

impl Extended {
    /// Parses all records of one header.
    pub(crate) fn parse(mut data: &[u8], limits: &Limits) -> Result<Self, TarError> {
        let mut extended = Self::default();
        let mut sparse_name = None;
        while !data.is_empty() {
            let (key, value, rest) = next_record(data)?;
            data = rest;
            match key {
                b"path" => set_once(&mut extended.path, value.to_vec(), "path")?,
                b"GNU.sparse.name" => set_once(&mut sparse_name, value.to_vec(), "sparse name")?,
                b"linkpath" => set_once(&mut extended.link_path, value.to_vec(), "linkpath")?,
                b"size" => set_once(&mut extended.size, decimal(value, "size")?, "size")?,
                b"uid" => set_once(&mut extended.uid, decimal(value, "uid")?, "uid")?,
                b"gid" => set_once(&mut extended.gid, decimal(value, "gid")?, "gid")?,
                b"mtime" => set_once(&mut extended.mtime, time(value, "mtime")?, "mtime")?,
                b"atime" => set_once(&mut extended.atime, time(value, "atime")?, "atime")?,
                key => extended.other(key, value, limits)?,
            }
        }
        // The real name stands in its own record, because `path` then names GNU tar's placeholder.
        extended.path = sparse_name.or(extended.path);
        Ok(extended)
    }

    fn other(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), TarError> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            return self.attribute(name, value, limits);
        }
        let sparse = &mut self.sparse;
        match key {
            b"GNU.sparse.major" => sparse.major = Some(decimal(value, "sparse major")?),
            b"GNU.sparse.minor" => sparse.minor = Some(decimal(value, "sparse minor")?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                let size = decimal(value, "sparse size")?;
                set_once(&mut sparse.real_size, size, "sparse size")?;
            }
            b"GNU.sparse.map" => set_once(&mut sparse.map, value.to_vec(), "sparse map")?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let is_offset = key == b"GNU.sparse.offset";
                if is_offset != sparse.pairs.len().is_multiple_of(2) {
                    return Err(invalid(
                        "sparse map",
                        "offsets and lengths do not alternate",
                    ));
                }
                sparse.pairs.push(decimal(value, "sparse map")?);
            }
            // Names of users, comments, change times: nothing a file system takes.
            _ => {}
        }
        Ok(())
    }

    fn attribute(&mut self, name: &[u8], value: &[u8], limits: &Limits) -> Result<(), TarError> {
        const NAME_BYTES_MAX: usize = 255;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(&0) {
            return Err(invalid(
                "extended attribute",
                "its name is empty, too long or has a NUL",
            ));
        }
        if value.len() > limits.attribute_bytes_max {
            let (length, limit) = (value.len() as u64, limits.attribute_bytes_max as u64);
            let what = "length of an extended attribute in bytes";
            return Err(TarError::limit(name, what, length, limit));
        }
        self.attributes.push((name.to_vec(), value.to_vec()));
        Ok(())
    }

    /// Refuses what a global header must not say: some unpackers honour it for every entry, others ignore it.
    pub(crate) fn check_global(&self) -> Result<(), TarError> {
        let steers = self.path.is_some()
            || self.link_path.is_some()
            || self.size.is_some()
            || !self.attributes.is_empty()
            || self.sparse.is_sparse();
        if steers {
            let reason =
                "a global header sets a path, size, attribute or sparse map for all entries";
            return Err(TarError::ambiguous(b"", reason));
        }
        Ok(())
    }
}

/// Key, value, and what follows.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// `length key=value\n`, where the length counts the whole record.
fn next_record(data: &[u8]) -> Result<Record<'_>, TarError> {
    let malformed = || invalid("extended header", "a record is malformed");
    let space = data
        .iter()
        .take(20)
        .position(|b| *b == b' ')
        .ok_or_else(malformed)?;
    let length =
        usize::try_from(decimal(&data[..space], "extended header")?).map_err(|_| malformed())?;
    if length <= space + 2 || length > data.len() || data[length - 1] != b'\n' {
        return Err(malformed());
    }
    let (record, rest) = data.split_at(length);
    let record = &record[space + 1..length - 1];
    let equals = record
        .iter()
        .position(|b| *b == b'=')
        .ok_or_else(malformed)?;
    if equals == 0 {
        return Err(malformed());
    }
    Ok((&record[..equals], &record[equals + 1..], rest))
}

/// Two equal statements are harmless; two different ones are how one unpacker is told one thing and another, another.
fn set_once<T: PartialEq>(
    slot: &mut Option<T>,
    value: T,
    what: &'static str,
) -> Result<(), TarError> {
    match slot {
        Some(previous) if *previous != value => {
            let reason = format!("its extended header states two different values of {what}");
            Err(TarError::ambiguous(b"", reason))
        }
        Some(_) => Ok(()),
        None => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn decimal(text: &[u8], field: &'static str) -> Result<u64, TarError> {
    parse_decimal(text)
        .ok_or_else(|| invalid(field, format!("{} is no number", text.escape_ascii())))
}

/// Plain decimal digits, at least one, without a sign.
pub(crate) fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// `[-]seconds[.fraction]`; digits beyond nanoseconds are cut, and negative times count down from the second.
fn time(text: &[u8], field: &'static str) -> Result<FileTime, TarError> {
    let bad = || invalid(field, format!("{} is no time", text.escape_ascii()));
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = digits
        .iter()
        .position(|b| *b == b'.')
        .unwrap_or(digits.len());
    let seconds = parse_decimal(&digits[..dot]).ok_or_else(bad)?;
    let seconds = i64::try_from(seconds).map_err(|_| bad())?;
    let fraction = digits.get(dot + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let nanoseconds = (0..9).fold(0_u32, |value, place| {
        let digit = fraction.get(place).map_or(0, |digit| digit - b'0');
        value * 10 + u32::from(digit)
    });
    Ok(match (negative, nanoseconds) {
        (false, nanoseconds) => FileTime {
            seconds,
            nanoseconds,
        },
        (true, 0) => FileTime {
            seconds: -seconds,
            nanoseconds: 0,
        },
        (true, nanoseconds) => FileTime {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

fn invalid(field: &'static str, reason: impl Into<String>) -> TarError {
    TarError::field(b"", field, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str) -> String {
        let body = key.len() + value.len() + 3;
        let mut length = body;
        while length != body + length.to_string().len() {
            length = body + length.to_string().len();
        }
        format!("{length} {key}={value}\n")
    }

    fn parse(records: &[(&str, &str)]) -> Result<Extended, TarError> {
        let text: String = records.iter().map(|(k, v)| record(k, v)).collect();
        Extended::parse(text.as_bytes(), &Limits::default())
    }

    #[test]
    fn known_records_are_read_and_unknown_ones_passed_over() {
        let extended = parse(&[
            ("path", "a=b"),
            ("size", "9000000000"),
            ("uid", "3000000"),
            ("mtime", "-1.25"),
            ("comment", "x\ny"),
            ("SCHILY.xattr.user.a", "\0binary\n"),
        ])
        .unwrap();
        assert_eq!(extended.path.unwrap(), b"a=b");
        assert_eq!(extended.size, Some(9_000_000_000));
        assert_eq!(extended.uid, Some(3_000_000));
        assert_eq!(
            extended.mtime,
            Some(FileTime {
                seconds: -2,
                nanoseconds: 750_000_000
            })
        );
        assert_eq!(
            extended.attributes,
            [(b"user.a".to_vec(), b"\0binary\n".to_vec())]
        );
    }

    #[test]
    fn two_different_sizes_are_refused_and_two_equal_ones_are_not() {
        assert!(matches!(
            parse(&[("size", "0"), ("size", "1024")]),
            Err(TarError::Ambiguous { .. })
        ));
        assert!(parse(&[("size", "5"), ("size", "5")]).is_ok());
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            "x", "5 a=b", "6 a=b\nX", "99 a=b\n", "5 ab\n", "0 \n", "-6 a=b\n", "5 =b\n",
        ] {
            let parsed = Extended::parse(bad.as_bytes(), &Limits::default());
            assert!(parsed.is_err(), "{bad:?} was accepted");
        }
        for (key, value) in [
            ("size", "-1"),
            ("size", "0x10"),
            ("size", ""),
            ("mtime", "1.x"),
            ("uid", "1 "),
        ] {
            assert!(
                parse(&[(key, value)]).is_err(),
                "{key}={value} was accepted"
            );
        }
    }

    #[test]
    fn an_attribute_longer_than_the_kernel_takes_is_refused() {
        let long = "x".repeat((64 << 10) + 1);
        assert!(matches!(
            parse(&[("SCHILY.xattr.user.a", &long)]),
            Err(TarError::Limit { .. })
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            let _parsed = Extended::parse(&bytes, &Limits::default());
        }

        #[test]
        fn times_survive(seconds in -(1_i64 << 40)..1 << 40, nanoseconds in 0_u32..1_000_000_000) {
            // A negative time is written by its distance from zero.
            let text = if seconds < 0 && nanoseconds > 0 {
                format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds)
            } else {
                format!("{seconds}.{nanoseconds:09}")
            };
            proptest::prop_assert_eq!(time(text.as_bytes(), "mtime").unwrap(), FileTime { seconds, nanoseconds });
        }
    }
}
