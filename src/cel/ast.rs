//! The tree of one expression: nodes in an arena, each with the place in the text where errors about it point.
//!
//! Macros are gone here ([`super::macros`] has expanded them), so that checker, cost and evaluator know eight forms only.

use std::sync::Arc;

/// A node of an [`Ast`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(u32);

impl Id {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A constant as it is written.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub key: Id,
    pub value: Id,
    /// `?key: value`.
    pub optional: bool,
}

#[derive(Debug, Clone)]
pub struct FieldInit {
    pub at: u32,
    pub name: Arc<str>,
    pub value: Id,
    pub optional: bool,
}

/// What every macro over lists and maps becomes.
#[derive(Debug, Clone)]
pub struct Comprehension {
    pub range: Id,
    pub var: Arc<str>,
    /// The second variable of the two-variable forms.
    pub var2: Option<Arc<str>>,
    pub accumulator: Arc<str>,
    pub init: Id,
    pub condition: Id,
    pub step: Id,
    pub result: Id,
}

#[derive(Debug, Clone)]
pub enum Node {
    Literal(Literal),
    Ident(Arc<str>),
    /// `test`: made by `has()`.
    Select {
        operand: Id,
        field: Arc<str>,
        test: bool,
    },
    Call {
        function: Arc<str>,
        target: Option<Id>,
        args: Vec<Id>,
    },
    List {
        items: Vec<Id>,
        /// Which of the items are `?optional`.
        optional: Vec<usize>,
    },
    Map(Vec<Entry>),
    Struct {
        name: Arc<str>,
        fields: Vec<FieldInit>,
    },
    Comprehension(Box<Comprehension>),
}

#[derive(Debug, Clone, Default)]
pub struct Ast {
    nodes: Vec<Node>,
    positions: Vec<u32>,
    /// The longest way down from each node; bounds every recursion over the tree.
    heights: Vec<u16>,
    /// The nodes of the tree below each node, itself included.
    sizes: Vec<u32>,
}

/// Nodes that a tree may have when macros have copied what they use twice. Everything else is bounded by the length of the text,
/// but each copy can double what the copies before it made. An expression of the greatest length has about as many nodes.
const NODES_MAX: usize = 100_000;

impl Ast {
    /// Adds a node. `at` is a position in code points.
    pub fn add(&mut self, at: u32, node: Node) -> Id {
        let (mut height, mut size) = (0, 1_u32);
        for_children(&node, |child| {
            height = height.max(self.heights[child.index()]);
            size = size.saturating_add(self.sizes[child.index()]);
        });
        self.heights.push(height.saturating_add(1));
        self.sizes.push(size);
        self.nodes.push(node);
        self.positions.push(at);
        Id(u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX))
    }
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.index()]
    }
    pub fn replace(&mut self, id: Id, node: Node) {
        self.nodes[id.index()] = node;
    }
    pub fn position(&self, id: Id) -> u32 {
        self.positions[id.index()]
    }
    pub fn height(&self, id: Id) -> u16 {
        self.heights[id.index()]
    }
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
    /// Every node, children before parents.
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).map(Id)
    }

    /// A copy of the tree below `id` with nodes of its own: macros use an argument twice. `None`: there would be too many nodes.
    pub fn copy(&mut self, id: Id) -> Option<Id> {
        let more = usize::try_from(self.sizes[id.index()]).unwrap_or(usize::MAX);
        (self.len().saturating_add(more) <= NODES_MAX).then(|| self.copy_node(id))
    }
    fn copy_node(&mut self, id: Id) -> Id {
        let mut node = self.node(id).clone();
        match &mut node {
            Node::Literal(_) | Node::Ident(_) => {}
            Node::Select { operand, .. } => *operand = self.copy_node(*operand),
            Node::Call { target, args, .. } => {
                if let Some(target) = target {
                    *target = self.copy_node(*target);
                }
                for arg in args {
                    *arg = self.copy_node(*arg);
                }
            }
            Node::List { items, .. } => {
                for item in items {
                    *item = self.copy_node(*item);
                }
            }
            Node::Map(entries) => {
                for entry in entries {
                    entry.key = self.copy_node(entry.key);
                    entry.value = self.copy_node(entry.value);
                }
            }
            Node::Struct { fields, .. } => {
                for field in fields {
                    field.value = self.copy_node(field.value);
                }
            }
            Node::Comprehension(c) => {
                for slot in [&mut c.range, &mut c.init, &mut c.condition, &mut c.step, &mut c.result] {
                    *slot = self.copy_node(*slot);
                }
            }
        }
        self.add(self.position(id), node)
    }

    /// `a.b.c` when the node is nothing but names.
    pub fn qualified_name(&self, id: Id) -> Option<String> {
        match self.node(id) {
            Node::Ident(name) => Some(name.to_string()),
            Node::Select { operand, field, test: false } => Some(format!("{}.{field}", self.qualified_name(*operand)?)),
            _ => None,
        }
    }

    /// Every node that hangs on `root`, the root included. Arguments that a macro replaced are not among them.
    pub fn reachable(&self, root: Id) -> Vec<Id> {
        let mut all = vec![root];
        let mut next = 0;
        while let Some(&id) = all.get(next) {
            for_children(self.node(id), |child| all.push(child));
            next += 1;
        }
        all
    }
}

/// Calls `f` for every direct child, in the order of evaluation.
pub fn for_children(node: &Node, mut f: impl FnMut(Id)) {
    match node {
        Node::Literal(_) | Node::Ident(_) => {}
        Node::Select { operand, .. } => f(*operand),
        Node::Call { target, args, .. } => {
            target.iter().for_each(|t| f(*t));
            args.iter().for_each(|a| f(*a));
        }
        Node::List { items, .. } => items.iter().for_each(|i| f(*i)),
        Node::Map(entries) => entries.iter().for_each(|e| {
            f(e.key);
            f(e.value);
        }),
        Node::Struct { fields, .. } => fields.iter().for_each(|x| f(x.value)),
        Node::Comprehension(c) => [c.range, c.init, c.condition, c.step, c.result].into_iter().for_each(f),
    }
}
