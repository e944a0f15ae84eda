//! Text to tree: a recursive descent over cel-spec's grammar, with optional syntax (`a.?b`, `a[?b]`, `[?x]`, `{?k: v}`).
//!
//! Positions are those of cel-go's nodes (a call is at its parenthesis, a selection at its dot), so that its errors point
//! where upstream's do. After the first syntax error parsing ends: what ANTLR's recovery would find after it is not told.
//!
//! Source: cel-go `parser/parser.go`, `parser/gen/CEL.g4`.

use std::sync::Arc;

use super::ast::{Ast, Entry, FieldInit, Id, Literal, Node};
use super::issue::Issue;
use super::lexer::{Token, Word, lex};
use super::macros;

/// Source: cel-go `parser/options.go` `defaultMaxRecursionDepth`.
const DEPTH_MAX: u16 = 250;
/// Source: cel-go `parser/options.go` `defaultExpressionSizeCodePointLimit`.
const CODE_POINTS_MAX: usize = 100_000;

/// What may begin an expression, as ANTLR lists it.
const BEGINS: &str =
    "'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER";

/// Names that the language keeps for itself. Source: cel-go `parser/parser.go` `reservedIds`, apiserver `pkg/cel/escaping.go`.
pub const RESERVED: [&str; 21] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// Parses one expression and expands its macros.
///
/// # Errors
/// At least one issue.
/// `binds`: whether `cel.bind` is a macro.
pub fn parse(text: &str, binds: bool) -> Result<(Ast, Id), Vec<Issue>> {
    let size = text.chars().count();
    if size > CODE_POINTS_MAX {
        let message = format!("expression code point size exceeds limit: size: {size}, limit {CODE_POINTS_MAX}");
        return Err(vec![Issue::new(0, message)]);
    }
    let (words, issues) = lex(text);
    let mut parser = Parser { words, next: 0, depth: 0, ast: Ast::default(), issues, binds };
    let root = parser.whole();
    match root {
        Ok(root) if parser.issues.is_empty() => Ok((parser.ast, root)),
        Ok(_) => Err(parser.issues),
        Err(Stop) => Err(parser.issues),
    }
}

/// Parsing cannot go on; the issue has been noted.
pub struct Stop;
type Parsed<T> = Result<T, Stop>;

pub struct Parser {
    words: Vec<Word>,
    next: usize,
    depth: u16,
    pub ast: Ast,
    issues: Vec<Issue>,
    pub binds: bool,
}

impl Parser {
    fn word(&self) -> &Word {
        &self.words[self.next.min(self.words.len() - 1)]
    }
    fn at(&self) -> u32 {
        self.word().at
    }
    fn is(&self, punct: &str) -> bool {
        matches!(self.word().token, Token::Punct(p) if p == punct)
    }
    fn after_is(&self, matches: impl Fn(&Token) -> bool) -> bool {
        self.words.get(self.next + 1).is_some_and(|w| matches(&w.token))
    }
    fn bump(&mut self) -> Word {
        let word = self.word().clone();
        self.next += 1;
        word
    }
    fn take(&mut self, punct: &str) -> Option<u32> {
        self.is(punct).then(|| self.bump().at)
    }
    /// Notes an issue and goes on.
    pub fn report(&mut self, at: u32, message: impl Into<String>) {
        self.issues.push(Issue::new(at, message));
    }
    fn syntax<T>(&mut self, message: &str) -> Parsed<T> {
        let at = self.at();
        self.report(at, format!("Syntax error: {message}"));
        Err(Stop)
    }
    fn mismatched<T>(&mut self, expecting: &str) -> Parsed<T> {
        let message = format!("mismatched input '{}' expecting {expecting}", self.word().text);
        self.syntax(&message)
    }
    fn close(&mut self, punct: &'static str) -> Parsed<u32> {
        if let Some(at) = self.take(punct) {
            return Ok(at);
        }
        let text = self.word().text.clone();
        if self.after_is(|t| *t == Token::Punct(punct)) {
            return self.syntax(&format!("extraneous input '{text}' expecting '{punct}'"));
        }
        if self.word().token == Token::End {
            return self.syntax(&format!("missing '{punct}' at '<EOF>'"));
        }
        self.mismatched(&format!("'{punct}'"))
    }

    fn whole(&mut self) -> Parsed<Id> {
        let root = self.expr()?;
        if self.word().token != Token::End {
            let text = self.word().text.clone();
            if self.after_is(|t| *t == Token::End) {
                return self.syntax(&format!("extraneous input '{text}' expecting <EOF>"));
            }
            return self.mismatched("<EOF>");
        }
        if self.ast.height(root) > DEPTH_MAX {
            self.report(0, "max recursion depth exceeded");
        }
        Ok(root)
    }

    fn expr(&mut self) -> Parsed<Id> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let at = self.at();
            self.report(at, format!("expression recursion limit exceeded: {DEPTH_MAX}"));
            return Err(Stop);
        }
        let condition = self.logical("||", "_||_")?;
        let result = match self.take("?") {
            None => condition,
            Some(at) => {
                let yes = self.logical("||", "_||_")?;
                self.close(":")?;
                let no = self.expr()?;
                self.call(at, "_?_:_", vec![condition, yes, no])
            }
        };
        self.depth -= 1;
        Ok(result)
    }

    /// A chain of `||` or `&&`, as a balanced tree: hundreds of terms are not hundreds of levels.
    fn logical(&mut self, operator: &'static str, function: &str) -> Parsed<Id> {
        let inner = |parser: &mut Self| match operator {
            "||" => parser.logical("&&", "_&&_"),
            _ => parser.relation(),
        };
        let mut terms = vec![inner(self)?];
        let mut places = Vec::new();
        while let Some(at) = self.take(operator) {
            places.push(at);
            terms.push(inner(self)?);
        }
        Ok(self.balanced(function, &terms, &places))
    }
    fn balanced(&mut self, function: &str, terms: &[Id], places: &[u32]) -> Id {
        if places.is_empty() {
            return terms[0];
        }
        let middle = places.len() / 2;
        let left = self.balanced(function, &terms[..=middle], &places[..middle]);
        let right = self.balanced(function, &terms[middle + 1..], &places[middle + 1..]);
        self.call(places[middle], function, vec![left, right])
    }

    fn relation(&mut self) -> Parsed<Id> {
        const RELATIONS: [(&str, &str); 7] =
            [("<", "_<_"), ("<=", "_<=_"), (">=", "_>=_"), (">", "_>_"), ("==", "_==_"), ("!=", "_!=_"), ("in", "@in")];
        self.chain(&RELATIONS, |parser| {
            parser.chain(&[("+", "_+_"), ("-", "_-_")], |parser| {
                parser.chain(&[("*", "_*_"), ("/", "_/_"), ("%", "_%_")], Self::unary)
            })
        })
    }
    fn chain(&mut self, operators: &[(&str, &str)], inner: impl Fn(&mut Self) -> Parsed<Id>) -> Parsed<Id> {
        let mut left = inner(self)?;
        while let Some((_, function)) = operators.iter().find(|(operator, _)| self.is(operator)) {
            let at = self.bump().at;
            let right = inner(self)?;
            left = self.call(at, function, vec![left, right]);
            if self.ast.height(left) > DEPTH_MAX {
                self.report(0, "max recursion depth exceeded");
                return Err(Stop);
            }
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Id> {
        for (operator, function) in [("!", "!_"), ("-", "-_")] {
            let at = self.at();
            let mut count = 0;
            while self.is(operator) {
                let literal = operator == "-"
                    && self.after_is(|t| matches!(t, Token::Int(_) | Token::Double(_)))
                    && count % 2 == 0;
                if literal {
                    break;
                }
                self.bump();
                count += 1;
            }
            if count > 0 {
                let operand = self.member()?;
                return Ok(if count % 2 == 0 { operand } else { self.call(at, function, vec![operand]) });
            }
        }
        self.member()
    }

    fn member(&mut self) -> Parsed<Id> {
        let mut operand = self.primary()?;
        loop {
            if self.ast.height(operand) > DEPTH_MAX {
                self.report(0, "max recursion depth exceeded");
                return Err(Stop);
            }
            if let Some(dot) = self.take(".") {
                let optional = self.take("?").is_some();
                let word = self.bump();
                let field = match word.token {
                    Token::Ident(name) => name,
                    Token::Escaped(_) => {
                        self.report(word.at, "unsupported syntax: '`'");
                        return Err(Stop);
                    }
                    token => {
                        self.next -= 1;
                        return match token {
                            Token::Punct("true" | "false" | "null") => self.mismatched("IDENTIFIER"),
                            Token::Punct("in") => self.syntax("no viable alternative at input '.in'"),
                            _ => {
                                let message = format!("no viable alternative at input '.{}'", self.word().text);
                                if self.word().token == Token::End {
                                    self.mismatched("{'?', IDENTIFIER, ESC_IDENTIFIER}")
                                } else {
                                    self.syntax(&message)
                                }
                            }
                        };
                    }
                };
                if optional {
                    let name = self.ast.add(word.at, Node::Literal(Literal::String(field)));
                    operand = self.call(dot, "_?._", vec![operand, name]);
                } else if let Some(open) = self.take("(") {
                    let args = self.arguments()?;
                    operand = macros::receiver(self, open, operand, &field, &args)?.unwrap_or_else(|| {
                        self.ast.add(open, Node::Call { function: field, target: Some(operand), args })
                    });
                } else {
                    operand = self.ast.add(dot, Node::Select { operand, field, test: false });
                }
            } else if let Some(open) = self.take("[") {
                let function = if self.take("?").is_some() { "_[?_]" } else { "_[_]" };
                let index = self.expr()?;
                self.close("]")?;
                operand = self.call(open, function, vec![operand, index]);
            } else {
                return Ok(operand);
            }
        }
    }

    /// The arguments behind an opening parenthesis, which has been taken.
    fn arguments(&mut self) -> Parsed<Vec<Id>> {
        let mut args = Vec::new();
        if self.take(")").is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if self.take(",").is_none() {
                self.close(")")?;
                return Ok(args);
            }
        }
    }

    fn primary(&mut self) -> Parsed<Id> {
        let at = self.at();
        let literal = match self.word().token.clone() {
            Token::Punct("true") => Literal::Bool(true),
            Token::Punct("false") => Literal::Bool(false),
            Token::Punct("null") => Literal::Null,
            Token::String(text) => Literal::String(text),
            Token::Bytes(bytes) => Literal::Bytes(bytes),
            Token::Double(value) => Literal::Double(value),
            Token::Uint(Ok(value)) => Literal::Uint(value),
            Token::Uint(Err(())) => return self.bad_literal("invalid uint literal"),
            Token::Int(value) => match value.ok().and_then(|v| i64::try_from(v).ok()) {
                Some(value) => Literal::Int(value),
                None => return self.bad_literal("invalid int literal"),
            },
            Token::BadString(why) => return self.bad_literal(&why),
            Token::Punct("-") => return self.negative(),
            Token::Punct("(") => {
                self.bump();
                let inner = self.expr()?;
                self.close(")")?;
                return Ok(inner);
            }
            Token::Punct("[") => return self.list(),
            Token::Punct("{") => return self.map(),
            Token::Punct(".") | Token::Ident(_) => return self.named(),
            _ => return self.mismatched(&format!("{{{BEGINS}}}")),
        };
        self.bump();
        Ok(self.ast.add(at, Node::Literal(literal)))
    }
    fn bad_literal(&mut self, why: &str) -> Parsed<Id> {
        let at = self.bump().at;
        self.report(at, why);
        Ok(self.ast.add(at, Node::Literal(Literal::Null)))
    }
    fn negative(&mut self) -> Parsed<Id> {
        let at = self.bump().at;
        let literal = match self.word().token {
            Token::Double(value) => Literal::Double(-value),
            Token::Int(Ok(value)) if value <= 1 << 63 => Literal::Int((value as i64).wrapping_neg()),
            Token::Int(_) => return self.bad_literal("invalid int literal"),
            _ => return self.mismatched(&format!("{{{BEGINS}}}")),
        };
        self.bump();
        Ok(self.ast.add(at, Node::Literal(literal)))
    }

    /// A name, a global call or a message: `a`, `.a`, `f(x)`, `a.B{c: d}`.
    fn named(&mut self) -> Parsed<Id> {
        let leading = self.take(".").is_some();
        let word = self.bump();
        let Token::Ident(name) = word.token else {
            self.next -= 1;
            return self.mismatched("IDENTIFIER");
        };
        // A message's name: names and dots up to a brace.
        let mut ahead = self.next;
        let mut full = name.to_string();
        loop {
            let token = |i: usize| self.words.get(i).map(|w| &w.token);
            match (token(ahead), token(ahead + 1)) {
                (Some(Token::Punct(".")), Some(Token::Ident(part))) => {
                    full.push('.');
                    full.push_str(part);
                    ahead += 2;
                }
                (Some(Token::Punct("{")), _) => {
                    self.next = ahead;
                    return self.message(&full);
                }
                _ => break,
            }
        }
        if RESERVED.contains(&&*name) {
            self.report(word.at, format!("reserved identifier: {name}"));
            return Err(Stop);
        }
        let name: Arc<str> = if leading { format!(".{name}").into() } else { name };
        if let Some(open) = self.take("(") {
            let args = self.arguments()?;
            return match macros::global(self, open, &name, &args)? {
                Some(expanded) => Ok(expanded),
                None => Ok(self.ast.add(open, Node::Call { function: name, target: None, args })),
            };
        }
        Ok(self.ast.add(word.at, Node::Ident(name)))
    }
    fn message(&mut self, name: &str) -> Parsed<Id> {
        let open = self.bump().at;
        let mut fields = Vec::new();
        while !self.is("}") {
            let optional = self.take("?").is_some();
            let word = self.bump();
            let Token::Ident(field) = word.token else {
                self.next -= 1;
                return self.mismatched("{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}");
            };
            let at = self.close(":")?;
            let value = self.expr()?;
            fields.push(FieldInit { at, name: field, value, optional });
            if self.take(",").is_none() {
                break;
            }
        }
        self.close("}")?;
        Ok(self.ast.add(open, Node::Struct { name: name.into(), fields }))
    }
    fn list(&mut self) -> Parsed<Id> {
        let open = self.bump().at;
        let (mut items, mut optional) = (Vec::new(), Vec::new());
        while !self.is("]") {
            if self.take("?").is_some() {
                optional.push(items.len());
            }
            items.push(self.expr()?);
            if self.take(",").is_none() {
                break;
            }
        }
        self.close("]")?;
        Ok(self.ast.add(open, Node::List { items, optional }))
    }
    fn map(&mut self) -> Parsed<Id> {
        let open = self.bump().at;
        let mut entries = Vec::new();
        while !self.is("}") {
            let optional = self.take("?").is_some();
            let key = self.expr()?;
            self.close(":")?;
            let value = self.expr()?;
            entries.push(Entry { key, value, optional });
            if self.take(",").is_none() {
                break;
            }
        }
        self.close("}")?;
        Ok(self.ast.add(open, Node::Map(entries)))
    }

    /// A call of an operator or a function of our own.
    pub fn call(&mut self, at: u32, function: &str, args: Vec<Id>) -> Id {
        self.ast.add(at, Node::Call { function: function.into(), target: None, args })
    }
}
