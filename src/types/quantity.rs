//! Resource quantities: `100m`, `64Mi`, `1e3`, `0.5`.
//!
//! Held exactly as a count of nano-units in 128 bits; the canonical text keeps the format of the input (decimal, binary or
//! exponent). Source: apimachinery `pkg/api/resource/quantity.go`.

use std::fmt;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
/// Upstream caps quantities at 2^63-1 units.
const MAX_NANOS: i128 = (i64::MAX as i128) * NANO;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

#[derive(Debug, Clone, Copy, Eq)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}
impl Default for Quantity {
    fn default() -> Self {
        Self { nanos: 0, format: Format::Decimal }
    }
}

/// Upstream's text for every malformed quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseError;

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits_end = text
            .char_indices()
            .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && matches!(c, '+' | '-'))))
            .map_or(text.len(), |(i, _)| i);
        let (number, suffix) = text.split_at(digits_end);
        let (negative, number) = match number.as_bytes().first() {
            Some(b'-') => (true, &number[1..]),
            Some(b'+') => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(ParseError);
        }
        let (format, factor) = Self::suffix(suffix)?;
        // value = digits * 10^-fraction * factor, in nano-units, rounded up away from zero as upstream does
        let mut digits: i128 = 0;
        let mut dropped = false;
        let fraction = fraction.trim_end_matches('0');
        let mut scale: u32 = 0;
        for (i, b) in whole.bytes().chain(fraction.bytes()).enumerate() {
            if digits > MAX_NANOS {
                if i < whole.len() {
                    digits = MAX_NANOS;
                }
                dropped |= b != b'0';
                continue;
            }
            digits = digits * 10 + i128::from(b - b'0');
            if i >= whole.len() {
                scale += 1;
            }
        }
        let (numerator, denominator) = match factor {
            Factor::Multiply(n) => (digits.saturating_mul(n).saturating_mul(NANO), 1),
            Factor::Divide(n) => (digits.saturating_mul(NANO), n),
        };
        // More decimals than can be counted in: whatever they are, less than the smallest unit.
        let denominator = 10i128.checked_pow(scale).and_then(|power| power.checked_mul(denominator));
        let (mut nanos, rest) = denominator.map_or((0, numerator), |d| (numerator / d, numerator % d));
        if rest != 0 || dropped {
            nanos += 1;
        }
        nanos = nanos.min(MAX_NANOS);
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

enum Factor {
    Multiply(i128),
    Divide(i128),
}

impl Quantity {
    fn suffix(suffix: &str) -> Result<(Format, Factor), ParseError> {
        let decimal = |power: u32| Ok((Format::Decimal, Factor::Multiply(10i128.pow(power))));
        let binary = |power: u32| Ok((Format::Binary, Factor::Multiply(1i128 << (10 * power))));
        match suffix {
            "" => decimal(0),
            "n" => Ok((Format::Decimal, Factor::Divide(NANO))),
            "u" => Ok((Format::Decimal, Factor::Divide(1_000_000))),
            "m" => Ok((Format::Decimal, Factor::Divide(1_000))),
            "k" => decimal(3),
            "M" => decimal(6),
            "G" => decimal(9),
            "T" => decimal(12),
            "P" => decimal(15),
            "E" => decimal(18),
            "Ki" => binary(1),
            "Mi" => binary(2),
            "Gi" => binary(3),
            "Ti" => binary(4),
            "Pi" => binary(5),
            "Ei" => binary(6),
            _ => {
                let exponent: i32 = suffix.strip_prefix(['e', 'E']).and_then(|e| e.parse().ok()).ok_or(ParseError)?;
                let power = exponent.unsigned_abs();
                if power > 18 {
                    return Err(ParseError);
                }
                let n = 10i128.pow(power);
                Ok((Format::Exponent, if exponent < 0 { Factor::Divide(n) } else { Factor::Multiply(n) }))
            }
        }
    }

    /// Whole units, e.g. bytes or pods.
    pub const fn from_units(n: i64) -> Self {
        Self { nanos: n as i128 * NANO, format: Format::Decimal }
    }
    /// Thousandths, e.g. millicores.
    pub const fn from_millis(n: i64) -> Self {
        Self { nanos: n as i128 * (NANO / 1000), format: Format::Decimal }
    }
    /// Billionths, e.g. nanoseconds of CPU time a second.
    pub const fn from_nanos(n: i64) -> Self {
        Self { nanos: n as i128, format: Format::Decimal }
    }
    /// Bytes, shown with Ki, Mi, Gi.
    pub const fn from_bytes(n: i64) -> Self {
        Self { nanos: n as i128 * NANO, format: Format::Binary }
    }

    /// Units, rounded up.
    pub fn value(&self) -> i64 {
        div_ceil(self.nanos, NANO)
    }
    /// Thousandths, rounded up.
    pub fn millis(&self) -> i64 {
        div_ceil(self.nanos, NANO / 1000)
    }
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }
    /// Whether it is a whole number of units.
    pub fn is_integer(&self) -> bool {
        self.nanos % NANO == 0
    }
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self { nanos: (self.nanos + other.nanos).clamp(-MAX_NANOS, MAX_NANOS), format }
    }
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Self { nanos: (self.nanos - other.nanos).clamp(-MAX_NANOS, MAX_NANOS), format }
    }
}

fn div_ceil(n: i128, d: i128) -> i64 {
    let q = n.div_euclid(d) + i128::from(n.rem_euclid(d) != 0);
    q.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

impl serde::Serialize for Quantity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text, or a number as people write it.
impl<'de> serde::Deserialize<'de> for Quantity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        crate::json::quantity(&value).ok_or_else(|| serde::de::Error::custom(ParseError))
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction digits, the largest suffix that keeps the number whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let units = self.nanos / NANO;
        let whole = self.nanos % NANO == 0;
        // a binary quantity below 1024, or with a fraction, is shown in decimal form
        if self.format == Format::Binary && whole && units.abs() >= 1024 {
            let mut n = units;
            let mut suffix = "";
            for s in ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] {
                if n % 1024 != 0 {
                    break;
                }
                n /= 1024;
                suffix = s;
            }
            return write!(f, "{n}{suffix}");
        }
        let mut n = self.nanos;
        let mut power = -9;
        while n % 1000 == 0 && power < 18 {
            n /= 1000;
            power += 3;
        }
        if self.format == Format::Exponent {
            return if power == 0 { write!(f, "{n}") } else { write!(f, "{n}e{power}") };
        }
        let suffix = match power {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{n}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_texts() {
        for (input, canonical, millis) in [
            ("0", "0", 0),
            ("100m", "100m", 100),
            ("0.5", "500m", 500),
            ("1000m", "1", 1000),
            ("1.5Gi", "1536Mi", 1_610_612_736_000),
            ("64Mi", "64Mi", 67_108_864_000),
            ("1024", "1024", 1_024_000),
            ("1000", "1k", 1_000_000),
            ("1e3", "1e3", 1_000_000),
            ("12e6", "12e6", 12_000_000_000),
            ("-5", "-5", -5000),
            ("1n", "1n", 1),
            ("0.1Ki", "102400m", 102_400),
            ("5.0", "5", 5000),
            ("1E", "1E", 1_000_000_000_000_000_000_000i128.min(i64::MAX.into()) as i64),
        ] {
            let quantity: Quantity = input.parse().unwrap();
            assert_eq!(quantity.to_string(), canonical, "{input}");
            assert_eq!(quantity.millis(), millis, "{input}");
        }
    }

    #[test]
    fn refuses() {
        for input in ["", "a", "1.2.3", "1Kb", "1 Mi", ".", "1e", "--1", "1mm", "0x1"] {
            assert!(input.parse::<Quantity>().is_err(), "{input}");
        }
    }

    #[test]
    fn rounding_and_sums() {
        assert_eq!("1m".parse::<Quantity>().unwrap().value(), 1);
        assert_eq!("-1m".parse::<Quantity>().unwrap().value(), 0);
        let sum = "100m".parse::<Quantity>().unwrap().plus(&"1".parse().unwrap());
        assert_eq!(sum.to_string(), "1100m");
        assert!("1Gi".parse::<Quantity>().unwrap() > "1G".parse().unwrap());
    }

    #[test]
    fn what_is_too_small_is_the_smallest() {
        for suffix in ["", "m", "n", "k"] {
            let text = format!("0.{}1{suffix}", "0".repeat(40));
            assert_eq!(text.parse::<Quantity>().unwrap().to_string(), "1n", "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[+-]?[0-9.]{0,50}[eEinumkKMGTP0-9-]{0,4}", other in ".*") {
            let _ = other.parse::<Quantity>();
            if let Ok(quantity) = text.parse::<Quantity>() {
                let shown = quantity.to_string();
                let again: Quantity = shown.parse().unwrap();
                proptest::prop_assert_eq!(again, quantity, "{} is shown as {}", text, shown);
                proptest::prop_assert_eq!(again.to_string(), shown);
                let _ = (quantity.value(), quantity.millis(), quantity.plus(&again));
                proptest::prop_assert!(quantity.minus(&again).is_zero());
            }
        }
    }
}
