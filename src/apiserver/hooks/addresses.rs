//! Addresses and ranges as fields hold them. Strict from the start: what older servers let pass was never stored here.
//!
//! Source: apimachinery `pkg/util/validation/ip.go`, with the feature `StrictIPCIDRValidation` as 1.36 has it.

use std::net::IpAddr;

use ipnet::IpNet;
use types::field::{FieldError, Path};

use super::check::Errors;

const NO_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NO_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address whose octets may begin with zeros, as Go once read them.
fn sloppy(value: &str) -> Option<IpAddr> {
    value.parse().ok().or_else(|| {
        let octets: Vec<&str> = value.split('.').collect();
        let digits = |o: &&str| !o.is_empty() && o.bytes().all(|b| b.is_ascii_digit());
        if octets.len() != 4 || !octets.iter().all(digits) {
            return None;
        }
        let trimmed = |o: &str| match o.trim_start_matches('0') {
            "" => "0".to_owned(),
            rest => rest.to_owned(),
        };
        octets.iter().map(|o| trimmed(o)).collect::<Vec<_>>().join(".").parse().ok()
    })
}

/// As Go prints it: an IPv4 address in IPv6 clothes without them.
fn canonical(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

fn mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// Whether this reads as an address at all.
pub fn is_ip(value: &str) -> bool {
    sloppy(value).is_some()
}

/// An address in a field that also takes long forms of IPv6. Source: `IsValidIPForLegacyField`.
pub fn ip(value: &str, path: &Path, errors: &mut Errors) -> Option<IpAddr> {
    let Some(ip) = sloppy(value) else {
        errors.push(FieldError::invalid(path, value, NO_IP));
        return None;
    };
    if value.parse::<IpAddr>().is_err() {
        errors.push(FieldError::invalid(path, value, "must not have leading 0s"));
    } else if mapped(ip) {
        errors.push(FieldError::invalid(path, value, "must not be an IPv4-mapped IPv6 address"));
    }
    Some(ip)
}

/// An address in its one canonical form. Source: `IsValidIP`.
pub fn canonical_ip(value: &str, path: &Path, errors: &mut Errors) {
    let before = errors.len();
    if let Some(ip) = self::ip(value, path, errors)
        && errors.len() == before
        && canonical(ip) != value
    {
        errors.push(FieldError::invalid(path, value, format!("must be in canonical form ({:?})", canonical(ip))));
    }
}

fn sloppy_range(value: &str) -> Option<(IpAddr, IpNet)> {
    let (address, length) = value.split_once('/')?;
    let ip = sloppy(address)?;
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let net = IpNet::new(ip, length.parse::<u8>().ok().filter(|_| digits)?).ok()?;
    Some((ip, net))
}

/// A range in a field that also takes long forms of IPv6. Source: `IsValidCIDRForLegacyField`.
pub fn cidr(value: &str, path: &Path, errors: &mut Errors) -> Option<IpNet> {
    let Some((ip, net)) = sloppy_range(value) else {
        errors.push(FieldError::invalid(path, value, NO_CIDR));
        return None;
    };
    let length = value.rsplit('/').next().unwrap_or_default();
    let zeros = length.len() > 1 && length.starts_with('0');
    let wrong = if zeros || value.split('/').next().is_none_or(|ip| ip.parse::<IpAddr>().is_err()) {
        "must not have leading 0s in IP or prefix length"
    } else if mapped(ip) {
        "must not have an IPv4-mapped IPv6 address"
    } else if net.network() != ip {
        "must not have bits set beyond the prefix length"
    } else {
        return Some(net);
    };
    errors.push(FieldError::invalid(path, value, wrong));
    Some(net)
}

/// A range in its one canonical form. Source: `IsValidCIDR`.
pub fn canonical_cidr(value: &str, path: &Path, errors: &mut Errors) -> Option<IpNet> {
    let before = errors.len();
    let net = cidr(value, path, errors)?;
    if errors.len() == before && net.to_string() != value {
        let words = format!("must be in canonical form ({:?})", net.to_string());
        errors.push(FieldError::invalid(path, value, words));
    }
    Some(net)
}

/// An address and the length of its network, in canonical form. Source: `IsValidInterfaceAddress`.
pub fn interface(value: &str, path: &Path, errors: &mut Errors) {
    let Some((ip, net)) = sloppy_range(value) else {
        let words = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        errors.push(FieldError::invalid(path, value, words));
        return;
    };
    let shown = format!("{}/{}", canonical(ip), net.prefix_len());
    if shown != value {
        errors.push(FieldError::invalid(path, value, format!("must be in canonical form ({shown:?})")));
    }
}

/// What is said about an address that is valid and not in its canonical form. Source: `GetWarningsForIP`.
pub fn ip_warning(value: &str, path: &Path) -> Option<String> {
    let ip = sloppy(value)?;
    let shown = canonical(ip);
    if value.parse::<IpAddr>().is_err() || mapped(ip) {
        return Some(format!("{path}: non-standard IP address {value:?} is invalid: use {shown:?}"));
    }
    (ip.is_ipv6() && shown != value)
        .then(|| format!("{path}: IPv6 address {value:?} should be in RFC 5952 canonical format ({shown:?})"))
}

/// What is said about a range that is valid and not in its canonical form. Source: `GetWarningsForCIDR`.
pub fn cidr_warnings(value: &str, path: &Path) -> Vec<String> {
    let Some((ip, net)) = sloppy_range(value) else { return Vec::new() };
    let mut warnings = Vec::new();
    if net.network() != ip {
        let (range, single) = (net.trunc().to_string(), format!("{}/{}", canonical(ip), net.max_prefix_len()));
        warnings.push(format!(
            "{path}: CIDR value {value:?} is ambiguous in this context (should be {range:?} or {single:?}?)"
        ));
    }
    if net.addr().is_ipv6() && warnings.is_empty() && net.to_string() != value {
        let shown = net.to_string();
        warnings.push(format!("{path}: IPv6 CIDR value {value:?} should be in RFC 5952 canonical format ({shown:?})"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(of: impl Fn(&mut Errors)) -> Vec<String> {
        let mut errors = Vec::new();
        of(&mut errors);
        errors.into_iter().map(|e| e.detail).collect()
    }

    #[test]
    fn addresses() {
        for (value, legacy, strict) in [
            ("10.0.0.1", "", ""),
            ("fd00::1", "", ""),
            ("FD00:0::1", "", "must be in canonical form (\"fd00::1\")"),
            ("010.0.0.1", "must not have leading 0s", "must not have leading 0s"),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address", "must not be an IPv4-mapped IPv6 address"),
            ("1.2.3", NO_IP, NO_IP),
            ("", NO_IP, NO_IP),
        ] {
            let one = |text: &str| if text.is_empty() { vec![] } else { vec![text.to_owned()] };
            assert_eq!(
                said(|e| {
                    ip(value, &Path::root(), e);
                }),
                one(legacy),
                "{value}"
            );
            assert_eq!(said(|e| canonical_ip(value, &Path::root(), e)), one(strict), "{value}");
        }
    }

    #[test]
    fn ranges() {
        for (value, strict) in [
            ("10.0.0.0/8", ""),
            ("fd00::/64", ""),
            ("FD00::/64", "must be in canonical form (\"fd00::/64\")"),
            ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
            ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
            ("10.0.0.0", NO_CIDR),
            ("10.0.0.0/33", NO_CIDR),
            ("10.0.0.0/+8", NO_CIDR),
        ] {
            let expected: Vec<String> = Some(strict).filter(|s| !s.is_empty()).map(str::to_owned).into_iter().collect();
            assert_eq!(
                said(|e| {
                    canonical_cidr(value, &Path::root(), e);
                }),
                expected,
                "{value}"
            );
        }
        assert_eq!(
            cidr_warnings("10.0.0.1/8", &Path::new("spec")),
            [
                "spec: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.0.0.1/32\"?)"
            ]
        );
    }
}
