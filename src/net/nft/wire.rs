//! nf_tables messages as bytes: attributes, objects, expressions. One [`Batch`] is one transaction.
//!
//! No crate does maps, numgen and nat without C or GPL code, so this is our own. It writes only what Kedge's table needs.
//!
//! Source: include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h of the kernel (attribute numbers, which are ABI).

/// `NFPROTO_INET`: one table for both families.
const INET: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES` in the high byte of a message type.
pub(super) const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
/// Elements per message. A nested attribute's length is 16 bits; an IPv6 element is about 90 bytes.
const ELEMENTS_MAX: usize = 400;

/// Message types.
pub(super) mod kind {
    pub(crate) const NEW_TABLE: u16 = 0;
    pub(crate) const DEL_TABLE: u16 = 2;
    pub(crate) const NEW_CHAIN: u16 = 3;
    pub(crate) const GET_CHAIN: u16 = 4;
    pub(crate) const NEW_RULE: u16 = 6;
    pub(crate) const DEL_RULE: u16 = 8;
    pub(crate) const NEW_SET: u16 = 9;
    pub(crate) const NEW_ELEMENT: u16 = 12;
    pub(crate) const GET_ELEMENT: u16 = 13;
    pub(crate) const DEL_ELEMENT: u16 = 14;
}

/// Verdicts that are codes.
pub(super) const DROP: i32 = 0;
pub(super) const JUMP: i32 = -3;
pub(super) const GOTO: i32 = -4;
pub(super) const RETURN: i32 = -5;

/// Registers are 16 words, numbered from 8; concatenations fill consecutive ones.
pub(super) const R0: u32 = 8;

/// Set flags.
pub(super) mod flag {
    pub(crate) const MAP: u32 = 8;
    pub(crate) const TIMEOUT: u32 = 16;
    pub(crate) const EVAL: u32 = 32;
}

/// nft's numbers of data types: only for those who list the table; the kernel compares bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Ipv4,
    Ipv6,
    Protocol,
    Port,
    Mark,
}

impl Type {
    fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
        }
    }

    /// Bytes in a register, rounded up to whole words.
    pub(super) fn width(self) -> u32 {
        match self {
            Self::Ipv6 => 16,
            Self::Ipv4 | Self::Protocol | Self::Port | Self::Mark => 4,
        }
    }
}

/// What a map leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    Nothing,
    Verdict,
    Value(&'static [Type]),
}

/// What an element carries besides its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    Nothing,
    Goto(String),
    Bytes(Vec<u8>),
}

/// A base chain's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    pub(super) kind: &'static str,
    pub(super) number: u32,
    pub(super) priority: i32,
}

/// Messages of one transaction. Sequence numbers are relative to `first`.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    first: u32,
    count: u32,
    last: usize,
}

impl Batch {
    /// An empty batch for one table.
    pub(crate) fn new() -> Self {
        let mut batch = Self { bytes: Vec::with_capacity(4096), first: 0, count: 0, last: 0 };
        batch.message(BATCH_BEGIN, REQUEST, 0, 10, |_| {});
        batch
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 1
    }

    /// The bytes so far (for a fingerprint).
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Messages, both batch marks included, once finished.
    pub(crate) fn count(&self) -> u32 {
        self.count + 1
    }

    /// Numbers the messages from `first` on, asks to acknowledge the last one and closes the batch. (Acknowledging the
    /// closing mark itself only works from kernel 6.10 on.) Returns the bytes and the sequence number to wait for.
    pub(crate) fn finish(mut self, first: u32) -> (Vec<u8>, u32) {
        let flags = self.last + 6;
        if let Some(room) = self.bytes.get_mut(flags..flags + 2) {
            let old = u16::from_ne_bytes([room[0], room[1]]);
            room.copy_from_slice(&(old | ACK).to_ne_bytes());
        }
        let wait = first + self.count - 1;
        self.message(BATCH_END, REQUEST, 0, 10, |_| {});
        let mut at = 0;
        let mut sequence = first;
        while let Some(length) = self.bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes) {
            if let Some(room) = self.bytes.get_mut(at + 8..at + 12) {
                room.copy_from_slice(&sequence.to_ne_bytes());
            }
            sequence += 1;
            at += length as usize;
        }
        (self.bytes, wait)
    }

    /// A single request outside any transaction (dumps).
    pub(super) fn request(kind: u16, flags: u16, sequence: u32, f: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut batch = Self { bytes: Vec::new(), first: sequence, count: 0, last: 0 };
        batch.message(SUBSYSTEM | kind, REQUEST | flags, INET, 0, f);
        batch.bytes
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, f: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.last = start;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&(self.first + self.count).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        f(self);
        let length = (self.bytes.len() - start) as u32;
        if let Some(room) = self.bytes.get_mut(start..start + 4) {
            room.copy_from_slice(&length.to_ne_bytes());
        }
        self.count += 1;
    }

    fn object(&mut self, kind: u16, flags: u16, f: impl FnOnce(&mut Self)) {
        self.message(SUBSYSTEM | kind, REQUEST | flags, INET, 0, f);
    }

    // Attributes.

    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.bytes.extend_from_slice(&((5 + value.len()) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn word(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    fn nest(&mut self, kind: u16, f: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        f(self);
        let length = self.bytes.len() - start;
        // Callers split elements at ELEMENTS_MAX, rules are short: a longer nest is a bug here.
        assert!(length <= usize::from(u16::MAX), "nested attribute over 64 KiB");
        if let Some(room) = self.bytes.get_mut(start..start + 2) {
            room.copy_from_slice(&(length as u16).to_ne_bytes());
        }
        self
    }

    // Objects.

    pub(super) fn table(&mut self, name: &str) {
        self.object(kind::NEW_TABLE, CREATE, |m| {
            m.text(1, name);
        });
    }

    pub(super) fn del_table(&mut self, name: &str) {
        self.object(kind::DEL_TABLE, 0, |m| {
            m.text(1, name);
        });
    }

    pub(super) fn chain(&mut self, table: &str, name: &str, hook: Option<Hook>) {
        self.object(kind::NEW_CHAIN, CREATE, |m| {
            m.text(1, table).text(3, name);
            if let Some(hook) = hook {
                m.nest(4, |m| {
                    m.word(1, hook.number).word(2, hook.priority as u32);
                });
                // Policy accept: what is not ours passes.
                m.word(5, 1).text(7, hook.kind);
            }
        });
    }

    pub(super) fn rule(&mut self, table: &str, chain: &str, f: impl FnOnce(&mut Rule<'_>)) {
        self.object(kind::NEW_RULE, CREATE | APPEND, |m| {
            m.text(1, table).text(2, chain).nest(4, |m| f(&mut Rule(m)));
        });
    }

    /// Deletes all rules of a chain.
    pub(super) fn flush_rules(&mut self, table: &str, chain: &str) {
        self.object(kind::DEL_RULE, 0, |m| {
            m.text(1, table).text(2, chain);
        });
    }

    /// A named set or map. `size`: most elements, for those that packets fill; 0: no bound.
    pub(super) fn set(&mut self, table: &str, name: &str, flags: u32, key: &[Type], data: Data, size: u32) {
        let id = self.count;
        let concat = |types: &[Type]| types.iter().fold(0, |all, t| all << 6 | t.number());
        let width = |types: &[Type]| types.iter().map(|t| t.width()).sum();
        self.object(kind::NEW_SET, CREATE, |m| {
            let map = if data == Data::Nothing { 0 } else { flag::MAP };
            // A single port is two bytes; in concatenations every part fills whole words.
            m.text(1, table).text(2, name).word(3, flags | map).word(4, concat(key)).word(5, width(key));
            match data {
                Data::Nothing => {}
                // NFT_DATA_VERDICT; the length is the kernel's structure size on 64 bits, it checks no more than a bound.
                Data::Verdict => {
                    m.word(6, 0xffff_ff00).word(7, 16);
                }
                Data::Value(types) => {
                    m.word(6, concat(types)).word(7, width(types));
                }
            }
            if size > 0 {
                m.nest(9, |m| {
                    m.word(1, size);
                });
            }
            m.word(10, id);
        });
    }

    /// Adds elements, as many messages as it takes.
    pub(crate) fn add_elements<'a>(&mut self, table: &str, set: &str, elements: &[(&'a [u8], &'a Value)]) {
        for part in elements.chunks(ELEMENTS_MAX) {
            self.object(kind::NEW_ELEMENT, CREATE, |m| {
                m.text(1, table).text(2, set).nest(3, |m| {
                    for (key, value) in part {
                        m.element(key, value);
                    }
                });
            });
        }
    }

    /// Deletes elements by key.
    pub(crate) fn del_elements(&mut self, table: &str, set: &str, keys: &[&[u8]]) {
        for part in keys.chunks(ELEMENTS_MAX) {
            self.object(kind::DEL_ELEMENT, 0, |m| {
                m.text(1, table).text(2, set).nest(3, |m| {
                    for key in part {
                        m.element(key, &Value::Nothing);
                    }
                });
            });
        }
    }

    /// Deletes all elements.
    pub(crate) fn flush(&mut self, table: &str, set: &str) {
        self.object(kind::DEL_ELEMENT, 0, |m| {
            m.text(1, table).text(2, set);
        });
    }

    fn element(&mut self, key: &[u8], value: &Value) {
        self.nest(1, |m| {
            m.nest(1, |m| {
                m.attribute(1, key);
            });
            match value {
                Value::Nothing => {}
                Value::Bytes(bytes) => {
                    m.nest(2, |m| {
                        m.attribute(1, bytes);
                    });
                }
                Value::Goto(chain) => m.verdict(GOTO, Some(chain)),
            }
        });
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        self.nest(2, |m| {
            m.nest(2, |m| {
                m.word(1, code as u32);
                if let Some(chain) = chain {
                    m.text(2, chain);
                }
            });
        });
    }
}

/// Where a packet's field lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    base: u32,
    offset: u32,
    length: u32,
}

pub(super) const IP4_SOURCE: Field = Field { base: 1, offset: 12, length: 4 };
pub(super) const IP4_DESTINATION: Field = Field { base: 1, offset: 16, length: 4 };
pub(super) const IP6_SOURCE: Field = Field { base: 1, offset: 8, length: 16 };
pub(super) const IP6_DESTINATION: Field = Field { base: 1, offset: 24, length: 16 };
pub(super) const PORT_DESTINATION: Field = Field { base: 2, offset: 2, length: 2 };
pub(super) const ICMP_TYPE: Field = Field { base: 2, offset: 0, length: 1 };

/// Packet facts that are no payload.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meta {
    InputName = 6,
    OutputName = 7,
    Family = 15,
    Protocol = 16,
}

/// Connection facts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ct {
    State = 0,
    Status = 2,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reject {
    TcpReset,
    PortUnreachable,
}

/// The expressions of one rule, in order.
pub(super) struct Rule<'a>(&'a mut Batch);

impl Rule<'_> {
    fn expression(&mut self, name: &str, f: impl FnOnce(&mut Batch)) -> &mut Self {
        self.0.nest(1, |m| {
            m.text(1, name).nest(2, f);
        });
        self
    }

    pub(super) fn payload(&mut self, to: u32, field: Field) -> &mut Self {
        self.expression("payload", |m| {
            m.word(1, to).word(2, field.base).word(3, field.offset).word(4, field.length);
        })
    }

    pub(super) fn meta(&mut self, to: u32, key: Meta) -> &mut Self {
        self.expression("meta", |m| {
            m.word(1, to).word(2, key as u32);
        })
    }

    pub(super) fn ct(&mut self, to: u32, key: Ct) -> &mut Self {
        self.expression("ct", |m| {
            m.word(1, to).word(2, key as u32);
        })
    }

    /// Loads the type of the destination address (`RTN_…`) as this host's routes see it.
    pub(super) fn destination_type(&mut self, to: u32) -> &mut Self {
        self.expression("fib", |m| {
            m.word(1, to).word(2, 3).word(3, 2);
        })
    }

    pub(super) fn equals(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.compare(register, 0, value)
    }

    pub(super) fn differs(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.compare(register, 1, value)
    }

    fn compare(&mut self, register: u32, operator: u32, value: &[u8]) -> &mut Self {
        self.expression("cmp", |m| {
            m.word(1, register).word(2, operator).nest(3, |m| {
                m.attribute(1, value);
            });
        })
    }

    pub(super) fn mask(&mut self, register: u32, mask: &[u8]) -> &mut Self {
        self.expression("bitwise", |m| {
            m.word(1, register).word(2, register).word(3, mask.len() as u32);
            m.nest(4, |m| {
                m.attribute(1, mask);
            });
            m.nest(5, |m| {
                m.attribute(1, &vec![0; mask.len()]);
            });
        })
    }

    /// Continues only if the key is in the set.
    pub(super) fn contained(&mut self, key: u32, set: &str) -> &mut Self {
        self.expression("lookup", |m| {
            m.text(1, set).word(2, key);
        })
    }

    /// Follows the verdict of the key, or loads its value to `to`; continues after the rule if there is none.
    pub(super) fn lookup(&mut self, key: u32, map: &str, to: u32) -> &mut Self {
        self.expression("lookup", |m| {
            m.text(1, map).word(2, key).word(3, to);
        })
    }

    /// A random number below `modulus`, in the machine's byte order.
    pub(super) fn random(&mut self, to: u32, modulus: u32) -> &mut Self {
        self.expression("numgen", |m| {
            m.word(1, to).word(2, modulus).word(3, 1).word(4, 0);
        })
    }

    pub(super) fn constant(&mut self, to: u32, value: &[u8]) -> &mut Self {
        self.expression("immediate", |m| {
            m.word(1, to).nest(2, |m| {
                m.attribute(1, value);
            });
        })
    }

    /// Changes a map from the packet path: the key's value holds for so many milliseconds (0: as the map says).
    pub(super) fn remember(&mut self, map: &str, operation: u32, key: u32, value: u32, milliseconds: u64) -> &mut Self {
        self.expression("dynset", |m| {
            m.text(1, map).word(3, operation).word(4, key).word(5, value);
            if milliseconds > 0 {
                m.attribute(6, &milliseconds.to_be_bytes());
            }
        })
    }

    pub(super) fn destination_nat(&mut self, family: u8, address: u32, port: u32) -> &mut Self {
        self.expression("nat", |m| {
            m.word(1, 1).word(2, u32::from(family)).word(3, address).word(5, port);
        })
    }

    pub(super) fn masquerade(&mut self) -> &mut Self {
        self.expression("masq", |_| {})
    }

    pub(super) fn reject(&mut self, how: Reject) -> &mut Self {
        self.expression("reject", |m| match how {
            Reject::TcpReset => {
                m.word(1, 1).attribute(2, &[0]);
            }
            Reject::PortUnreachable => {
                m.word(1, 2).attribute(2, &[1]);
            }
        })
    }

    pub(super) fn verdict(&mut self, code: i32, chain: Option<&str>) -> &mut Self {
        self.expression("immediate", |m| {
            m.word(1, 0);
            m.verdict(code, chain);
        })
    }
}
