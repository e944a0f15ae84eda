//! Macros: calls that the parser replaces by comprehensions and conditions before anything is checked.
//!
//! The accumulator is `@result`, a name nobody can write. `cel.bind` is one only in the environment of devices: upstream enables it
//! nowhere else.
//!
//! Source: cel-go `parser/macro.go`, `ext/comprehensions.go`, `ext/lists.go` (`sortBy`), `cel/library.go` (`optMap`).

use std::sync::Arc;

use super::ast::{Comprehension, Id, Literal, Node};
use super::parser::{Parser, Stop};

pub const ACCUMULATOR: &str = "@result";
const UNUSED: &str = "#unused";
const SORT_INPUT: &str = "@__sortBy_input__";

type Expanded = Result<Option<Id>, Stop>;

/// Expands `f(args)` when it is a macro.
pub fn global(parser: &mut Parser, at: u32, function: &str, args: &[Id]) -> Expanded {
    if function != "has" || args.len() != 1 {
        return Ok(None);
    }
    match parser.ast.node(args[0]).clone() {
        Node::Select { operand, field, test: false } => {
            Ok(Some(parser.ast.add(at, Node::Select { operand, field, test: true })))
        }
        _ => refuse(parser, args[0], "invalid argument to has() macro"),
    }
}

/// Expands `target.f(args)` when it is a macro.
pub fn receiver(parser: &mut Parser, at: u32, target: Id, function: &str, args: &[Id]) -> Expanded {
    let mut m = Maker { parser, at };
    match (function, args) {
        ("all" | "exists" | "exists_one" | "existsOne", &[var, predicate]) => {
            let Some(var) = m.variable(var) else { return refuse(m.parser, var, "argument must be a simple name") };
            let var = m.checked(args[0], var)?;
            Ok(Some(m.quantifier(function, target, var, None, predicate)))
        }
        ("all" | "exists" | "exists_one" | "existsOne", &[_, _, predicate]) => {
            let (var, var2) = m.two_variables(args[0], args[1])?;
            Ok(Some(m.quantifier(function, target, var, Some(var2), predicate)))
        }
        ("map", &[var, transform]) => m.map(target, var, None, transform).map(Some),
        ("map", &[var, filter, transform]) => m.map(target, var, Some(filter), transform).map(Some),
        ("filter", &[var, filter]) => {
            let name = m.iteration_variable(var)?;
            let item = m.ident(&name);
            Ok(Some(m.collect(target, name, None, Some(filter), item)))
        }
        ("transformList", &[_, _, transform]) => {
            let (var, var2) = m.two_variables(args[0], args[1])?;
            Ok(Some(m.collect(target, var, Some(var2), None, transform)))
        }
        ("transformList", &[_, _, filter, transform]) => {
            let (var, var2) = m.two_variables(args[0], args[1])?;
            Ok(Some(m.collect(target, var, Some(var2), Some(filter), transform)))
        }
        ("transformMap" | "transformMapEntry", &[_, _, .., transform]) if args.len() <= 4 && args.len() >= 3 => {
            let filter = (args.len() == 4).then(|| args[2]);
            let (var, var2) = m.two_variables(args[0], args[1])?;
            let accumulator = m.accumulator();
            let step = if function == "transformMap" {
                let key = m.ident(&var);
                m.call("cel.@mapInsert", vec![accumulator, key, transform])
            } else {
                m.call("cel.@mapInsert", vec![accumulator, transform])
            };
            let step = m.filtered(filter, step);
            let init = m.add(Node::Map(Vec::new()));
            Ok(Some(m.fold(target, var, Some(var2), init, step)))
        }
        ("bind", &[var, value, result]) if m.parser.binds && m.variable(target).as_deref() == Some("cel") => {
            match m.variable(var) {
                Some(name) => Ok(Some(m.bind(name, value, result))),
                None => refuse(m.parser, var, "cel.bind() variable names must be simple identifiers"),
            }
        }
        ("sortBy", &[_, key]) => m.sort_by(target, args[0], key).map(Some),
        ("optMap" | "optFlatMap", &[var, transform]) => {
            let Some(name) = m.variable(var) else {
                return refuse(m.parser, var, &format!("{function}() variable name must be a simple identifier"));
            };
            let present = m.method("hasValue", target, vec![]);
            let Some(copy) = m.parser.ast.copy(target) else { return refuse(m.parser, target, "expression too large") };
            let value = m.method("value", copy, vec![]);
            let mut result = m.bind(name, value, transform);
            if function == "optMap" {
                result = m.call("optional.of", vec![result]);
            }
            let none = m.call("optional.none", vec![]);
            Ok(Some(m.call("_?_:_", vec![present, result, none])))
        }
        _ => Ok(None),
    }
}

fn refuse<T>(parser: &mut Parser, at: Id, message: &str) -> Result<T, Stop> {
    let at = parser.ast.position(at);
    parser.report(at, message);
    Err(Stop)
}

/// Makes nodes at the place of the macro's call.
struct Maker<'a> {
    parser: &'a mut Parser,
    at: u32,
}

impl Maker<'_> {
    fn add(&mut self, node: Node) -> Id {
        self.parser.ast.add(self.at, node)
    }
    fn call(&mut self, function: &str, args: Vec<Id>) -> Id {
        self.parser.call(self.at, function, args)
    }
    fn method(&mut self, function: &str, target: Id, args: Vec<Id>) -> Id {
        self.add(Node::Call { function: function.into(), target: Some(target), args })
    }
    fn ident(&mut self, name: &Arc<str>) -> Id {
        self.add(Node::Ident(name.clone()))
    }
    fn accumulator(&mut self) -> Id {
        self.ident(&ACCUMULATOR.into())
    }
    fn literal(&mut self, literal: Literal) -> Id {
        self.add(Node::Literal(literal))
    }

    fn variable(&self, id: Id) -> Option<Arc<str>> {
        match self.parser.ast.node(id) {
            Node::Ident(name) => Some(name.clone()),
            _ => None,
        }
    }
    fn checked(&mut self, at: Id, name: Arc<str>) -> Result<Arc<str>, Stop> {
        if &*name == ACCUMULATOR || &*name == "__result__" {
            return refuse(self.parser, at, "iteration variable overwrites accumulator variable");
        }
        Ok(name)
    }
    fn iteration_variable(&mut self, id: Id) -> Result<Arc<str>, Stop> {
        match self.variable(id) {
            Some(name) => self.checked(id, name),
            None => refuse(self.parser, id, "argument is not an identifier"),
        }
    }
    fn two_variables(&mut self, first: Id, second: Id) -> Result<(Arc<str>, Arc<str>), Stop> {
        let mut names = Vec::with_capacity(2);
        for id in [first, second] {
            match self.variable(id) {
                Some(name) => names.push(name),
                None => return refuse(self.parser, id, "argument must be a simple name"),
            }
        }
        let (one, two) = (names[0].clone(), names[1].clone());
        if one == two {
            return refuse(self.parser, second, &format!("duplicate variable name: {one}"));
        }
        Ok((self.checked(first, one)?, self.checked(second, two)?))
    }

    fn quantifier(&mut self, function: &str, range: Id, var: Arc<str>, var2: Option<Arc<str>>, predicate: Id) -> Id {
        let accumulator = self.accumulator();
        let (init, condition, step, result);
        match function {
            "all" => {
                init = self.literal(Literal::Bool(true));
                let seen = self.accumulator();
                condition = self.call("@not_strictly_false", vec![seen]);
                step = self.call("_&&_", vec![accumulator, predicate]);
                result = self.accumulator();
            }
            "exists" => {
                init = self.literal(Literal::Bool(false));
                let seen = self.accumulator();
                let not = self.call("!_", vec![seen]);
                condition = self.call("@not_strictly_false", vec![not]);
                step = self.call("_||_", vec![accumulator, predicate]);
                result = self.accumulator();
            }
            _ => {
                init = self.literal(Literal::Int(0));
                condition = self.literal(Literal::Bool(true));
                let one = self.literal(Literal::Int(1));
                let more = self.call("_+_", vec![accumulator, one]);
                let same = self.accumulator();
                step = self.call("_?_:_", vec![predicate, more, same]);
                let (count, wanted) = (self.accumulator(), self.literal(Literal::Int(1)));
                result = self.call("_==_", vec![count, wanted]);
            }
        }
        let accumulator = ACCUMULATOR.into();
        self.add(Node::Comprehension(Box::new(Comprehension {
            range,
            var,
            var2,
            accumulator,
            init,
            condition,
            step,
            result,
        })))
    }

    /// Adds up over all of a range; the accumulator is the result.
    fn fold(&mut self, range: Id, var: Arc<str>, var2: Option<Arc<str>>, init: Id, step: Id) -> Id {
        let condition = self.literal(Literal::Bool(true));
        let result = self.accumulator();
        let accumulator = ACCUMULATOR.into();
        self.add(Node::Comprehension(Box::new(Comprehension {
            range,
            var,
            var2,
            accumulator,
            init,
            condition,
            step,
            result,
        })))
    }
    fn filtered(&mut self, filter: Option<Id>, step: Id) -> Id {
        match filter {
            None => step,
            Some(filter) => {
                let same = self.accumulator();
                self.call("_?_:_", vec![filter, step, same])
            }
        }
    }
    fn collect(&mut self, range: Id, var: Arc<str>, var2: Option<Arc<str>>, filter: Option<Id>, item: Id) -> Id {
        let accumulator = self.accumulator();
        let one = self.add(Node::List { items: vec![item], optional: Vec::new() });
        let step = self.call("_+_", vec![accumulator, one]);
        let step = self.filtered(filter, step);
        let init = self.add(Node::List { items: Vec::new(), optional: Vec::new() });
        self.fold(range, var, var2, init, step)
    }
    fn map(&mut self, range: Id, var: Id, filter: Option<Id>, transform: Id) -> Result<Id, Stop> {
        let name = self.iteration_variable(var)?;
        Ok(self.collect(range, name, None, filter, transform))
    }

    /// `name` stands for `value` inside `result`: a fold over nothing whose accumulator is the variable.
    fn bind(&mut self, name: Arc<str>, value: Id, result: Id) -> Id {
        let range = self.add(Node::List { items: Vec::new(), optional: Vec::new() });
        let condition = self.literal(Literal::Bool(false));
        let step = self.ident(&name);
        self.add(Node::Comprehension(Box::new(Comprehension {
            range,
            var: UNUSED.into(),
            var2: None,
            accumulator: name,
            init: value,
            condition,
            step,
            result,
        })))
    }
    fn sort_by(&mut self, target: Id, var: Id, key: Id) -> Result<Id, Stop> {
        if matches!(self.parser.ast.node(target), Node::Literal(_) | Node::Map(_) | Node::Struct { .. }) {
            let message = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
            return refuse(self.parser, target, message);
        }
        let input: Arc<str> = SORT_INPUT.into();
        let range = self.ident(&input);
        let keys = self.map(range, var, None, key)?;
        let list = self.ident(&input);
        let sorted = self.method("@sortByAssociatedKeys", list, vec![keys]);
        Ok(self.bind(input, target, sorted))
    }
}
