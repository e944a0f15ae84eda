//! IP addresses and CIDRs. Source: apiserver `pkg/cel/library/ip.go`, `cidr.go`; Go `net/netip`.

use std::net::IpAddr;

use crate::signature::Function;
use crate::value::{Answer, Value, fault, no_overload};

pub const FUNCTIONS: &[Function] = &[
    Function {
        run: |args| match args {
            [Value::String(text)] => parse_ip(text).map_or_else(fault, |ip| Ok(Value::Ip(ip))),
            _ => no_overload(),
        },
        overloads: &[("ip", "string_to_ip", "(string) ip")],
    },
    Function {
        run: |args| match args {
            [Value::Cidr(ip, _)] => Ok(Value::Ip(*ip)),
            _ => no_overload(),
        },
        overloads: &[("ip", "cidr_ip", "cidr.() ip")],
    },
    Function {
        run: |args| match args {
            [Value::Ip(ip)] => Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
            _ => no_overload(),
        },
        overloads: &[("family", "ip_family", "ip.() int")],
    },
    Function {
        run: |args| match args {
            [Value::String(text)] => parse_ip(text).map_or_else(fault, |ip| Ok(Value::Bool(ip.to_string() == **text))),
            _ => no_overload(),
        },
        overloads: &[("ip.isCanonical", "ip_is_canonical", "(string) bool")],
    },
    Function {
        run: |args| test(args, |ip| ip.is_unspecified()),
        overloads: &[("isUnspecified", "ip_is_unspecified", "ip.() bool")],
    },
    Function {
        run: |args| test(args, |ip| ip.is_loopback()),
        overloads: &[("isLoopback", "ip_is_loopback", "ip.() bool")],
    },
    Function {
        run: |args| test(args, link_local_multicast),
        overloads: &[("isLinkLocalMulticast", "ip_is_link_local_multicast", "ip.() bool")],
    },
    Function {
        run: |args| test(args, link_local_unicast),
        overloads: &[("isLinkLocalUnicast", "ip_is_link_local_unicast", "ip.() bool")],
    },
    Function {
        run: |args| test(args, global_unicast),
        overloads: &[("isGlobalUnicast", "ip_is_global_unicast", "ip.() bool")],
    },
    Function {
        run: |args| match args {
            [Value::String(text)] => Ok(Value::Bool(parse_ip(text).is_ok())),
            _ => no_overload(),
        },
        overloads: &[("isIP", "is_ip", "(string) bool")],
    },
    Function {
        run: |args| match args {
            [Value::String(text)] => parse_cidr(text).map_or_else(fault, |(ip, bits)| Ok(Value::Cidr(ip, bits))),
            _ => no_overload(),
        },
        overloads: &[("cidr", "string_to_cidr", "(string) cidr")],
    },
    Function {
        run: |args| match args {
            [Value::String(text)] => Ok(Value::Bool(parse_cidr(text).is_ok())),
            _ => no_overload(),
        },
        overloads: &[("isCIDR", "is_cidr", "(string) bool")],
    },
    Function {
        run: contains_ip,
        overloads: &[
            ("containsIP", "cidr_contains_ip_string", "cidr.(string) bool"),
            ("containsIP", "cidr_contains_ip_ip", "cidr.(ip) bool"),
        ],
    },
    Function {
        run: contains_cidr,
        overloads: &[
            ("containsCIDR", "cidr_contains_cidr_string", "cidr.(string) bool"),
            ("containsCIDR", "cidr_contains_cidr", "cidr.(cidr) bool"),
        ],
    },
    Function {
        run: |args| match args {
            [Value::Cidr(_, bits)] => Ok(Value::Int(i64::from(*bits))),
            _ => no_overload(),
        },
        overloads: &[("prefixLength", "cidr_prefix_length", "cidr.() int")],
    },
    Function {
        run: |args| match args {
            [Value::Cidr(ip, bits)] => Ok(Value::Cidr(masked(*ip, *bits), *bits)),
            _ => no_overload(),
        },
        overloads: &[("masked", "cidr_masked", "cidr.() cidr")],
    },
];

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    if text.contains(':') && text.contains('%') {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    let ip: IpAddr = text.parse().map_err(|_| {
        let why = format!("ParseAddr({text:?}): unable to parse IP");
        format!("IP Address {text:?} parse error during conversion from string: {why}")
    })?;
    if mapped(ip) {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    Ok(ip)
}
fn parse_cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = |why: &str| {
        let why = format!("netip.ParsePrefix({text:?}): {why}");
        format!(
            "network address parse error during conversion from string: network address parse error during conversion from string: {why}"
        )
    };
    let (address, bits) = text.rsplit_once('/').ok_or_else(|| wrong("no '/'"))?;
    let ip: IpAddr = address.parse().map_err(|_| wrong(&format!("ParseAddr({address:?}): unable to parse IP")))?;
    let plain = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let bits: u8 =
        bits.parse().ok().filter(|_| plain).ok_or_else(|| wrong(&format!("bad bits after slash: {bits:?}")))?;
    if bits > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(wrong("prefix length out of range"));
    }
    if mapped(ip) {
        return Err(format!(
            "network address parse error during conversion from string: IPv4-mapped IPv6 address {text:?} is not allowed"
        ));
    }
    Ok((ip, bits))
}
fn mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

fn test<'a>(args: &[Value<'a>], holds: fn(&IpAddr) -> bool) -> Answer<'a> {
    match args {
        [Value::Ip(ip)] => Ok(Value::Bool(holds(ip))),
        _ => no_overload(),
    }
}
fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}
fn link_local_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}
fn global_unicast(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local_unicast(ip))
}

/// The address with the bits behind the prefix cleared.
fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}
fn within(ip: IpAddr, net: IpAddr, bits: u8) -> bool {
    ip.is_ipv4() == net.is_ipv4() && masked(ip, bits) == masked(net, bits)
}
fn contains_ip<'a>(args: &[Value<'a>]) -> Answer<'a> {
    match args {
        [Value::Cidr(net, bits), Value::Ip(ip)] => Ok(Value::Bool(within(*ip, *net, *bits))),
        [Value::Cidr(net, bits), Value::String(text)] => {
            parse_ip(text).map_or_else(fault, |ip| Ok(Value::Bool(within(ip, *net, *bits))))
        }
        _ => no_overload(),
    }
}
fn contains_cidr<'a>(args: &[Value<'a>]) -> Answer<'a> {
    let (net, bits, (ip, inner)) = match args {
        [Value::Cidr(net, bits), Value::Cidr(ip, inner)] => (net, bits, (*ip, *inner)),
        [Value::Cidr(net, bits), Value::String(text)] => match parse_cidr(text) {
            Ok(parsed) => (net, bits, parsed),
            Err(why) => return fault(why),
        },
        _ => return no_overload(),
    };
    Ok(Value::Bool(inner >= *bits && within(masked(ip, inner), *net, *bits)))
}
