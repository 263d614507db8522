//! The CEL of policies: parsed, checked and bounded when a policy is loaded, evaluated on a snapshot later.
//!
//! Policies are configuration, and configuration must not be able to end the process. So the expression is parsed by the
//! hand-written parser of the `cel` crate (the generated one can panic on malformed text), and its tree is then checked: names
//! and functions are known, depth and size are bounded (evaluation recurses), loops are nested at most twice and build nothing
//! larger than their input, and constructs on which the interpreter panics do not occur.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr as Node, IdedExpr, LiteralValue, operators};
use cel::common::traits::Indexer;
use cel::common::types::{CelInt, CelString, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::objects::{Key, Map};
use cel::parser::PrattParser;
use cel::{Context, Env, ExecutionError, Value};

use crate::engine::policy::Snapshot;
use crate::engine::role::{RoleSet, is_name};

/// Longest expression, bytes.
pub(super) const EXPR_MAX_BYTES: usize = 1_024;
/// Deepest tree: evaluation recurses, and a thread's stack is 2 MiB.
const DEPTH_MAX: usize = 32;
/// Most nodes of a tree, macros expanded.
const NODES_MAX: usize = 512;
/// Most languages, tools and labels of the asking node that are looked at: it may say anything, and rules may loop over them.
const NODE_LIST_MAX: usize = 256;
/// Deepest nesting of `exists`, `all`, `filter`: each level multiplies the work by the length of a list.
const LOOPS_MAX: usize = 2;

const VARIABLES: [&str; 6] = ["census", "members", "queue", "node", "facts", "fact_age_s"];
const QUEUE_FIELDS: [&str; 8] =
    ["needed", "delegated", "building", "received", "blocked", "failed", "cancelled", "quarantined"];
const NODE_FIELDS: [&str; 12] = [
    "cpu_cores",
    "ram_gb",
    "disk_free_gb",
    "arch",
    "distro",
    "distro_version",
    "virt",
    "has_gpu",
    "docker_installed",
    "languages",
    "tools",
    "labels",
];
const FUNCTIONS: [&str; 8] = ["size", "contains", "startsWith", "endsWith", "int", "uint", "double", "string"];
const OPERATORS: [&str; 17] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
];
const OPERATORS_OF_MACROS: [&str; 2] = [operators::NOT_STRICTLY_FALSE, operators::IN];

/// What an expression or a template may name.
pub(super) struct Names<'a> {
    pub(super) roles: &'a RoleSet,
}

impl Names<'_> {
    /// Checks `variable.field`.
    pub(super) fn check_field(&self, variable: &str, field: &str) -> Result<(), String> {
        let known = match variable {
            "queue" if !QUEUE_FIELDS.contains(&field) => QUEUE_FIELDS.join(", "),
            "node" if !NODE_FIELDS.contains(&field) => NODE_FIELDS.join(", "),
            "census" if self.roles.get(field).is_none() => self.roles.names(),
            "facts" | "fact_age_s" if !is_name(field) && !is_identifier(field) => {
                "a letter a-z and up to 31 of a-z, 0-9, - or _".to_owned()
            }
            _ => return Ok(()),
        };
        Err(format!("{variable}.{field} is not known, expected one of: {known}"))
    }

    /// Checks the name of a variable.
    pub(super) fn check_variable(variable: &str) -> Result<(), String> {
        if VARIABLES.contains(&variable) {
            return Ok(());
        }
        Err(format!("{variable:?} is not known, expected one of: {}", VARIABLES.join(", ")))
    }
}

/// Facts are named like everything else, with `_` for those that must be written `facts.name`.
pub(super) fn is_identifier(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// What is wrong in an expression, and on which of its lines (from 0).
#[derive(Debug)]
pub(super) struct ExprError {
    pub(super) what: String,
    pub(super) line_offset: usize,
}

impl From<String> for ExprError {
    fn from(what: String) -> Self {
        Self { what, line_offset: 0 }
    }
}

/// A checked expression.
pub(super) struct Expr {
    tree: IdedExpr,
    facts: BTreeSet<String>,
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expr").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Expr {
    /// Parses and checks.
    pub(super) fn compile(text: &str, names: &Names<'_>) -> Result<Self, ExprError> {
        if text.trim().is_empty() || text.len() > EXPR_MAX_BYTES {
            let got = text.len();
            return Err(format!("expression of {got} bytes, expected 1 to {EXPR_MAX_BYTES}").into());
        }
        if let Some(odd) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')) {
            return Err(format!("expression with control character {odd:?}, expected text").into());
        }
        let parser = PrattParser::new().max_recursion_depth(DEPTH_MAX as u16).max_expression_node_count(NODES_MAX);
        let tree = parser.parse(text).map_err(|errors| {
            let first = errors.errors.into_iter().next();
            let (line, what) = first.map_or((1, "cannot be parsed".to_owned()), |error| (error.pos.0, error.msg));
            let line_offset = usize::try_from(line.saturating_sub(1)).unwrap_or(0);
            ExprError { what: format!("not a CEL expression: {}", what.replace('\n', " ")), line_offset }
        })?;
        let mut check = Check { names, facts: BTreeSet::new(), optional: BTreeSet::new(), bound: vec![], nodes: 0 };
        check.node(&tree, 0, 0)?;
        // `has(facts.x)` says that the rule can be judged without it.
        let facts = check.facts.difference(&check.optional).cloned().collect();
        Ok(Self { tree, facts })
    }

    /// Facts without which it cannot be evaluated.
    pub(super) fn facts(&self) -> &BTreeSet<String> {
        &self.facts
    }
}

struct Check<'a> {
    names: &'a Names<'a>,
    facts: BTreeSet<String>,
    optional: BTreeSet<String>,
    bound: Vec<String>,
    nodes: usize,
}

impl Check<'_> {
    fn node(&mut self, expr: &IdedExpr, depth: usize, loops: usize) -> Result<(), String> {
        self.nodes += 1;
        if depth > DEPTH_MAX || self.nodes > NODES_MAX {
            return Err(format!("too large, expected at most {NODES_MAX} terms nested at most {DEPTH_MAX} deep"));
        }
        match &expr.expr {
            Node::Literal(_) => Ok(()),
            Node::Ident(name) if name.starts_with('@') || self.bound.contains(name) => Ok(()),
            Node::Ident(name) => Names::check_variable(name),
            Node::Select(select) => {
                self.field(&select.operand, &select.field, select.test)?;
                self.node(&select.operand, depth + 1, loops)
            }
            Node::Call(call) => {
                let name = call.func_name.as_str();
                let operator = OPERATORS.contains(&name) || OPERATORS_OF_MACROS.contains(&name);
                if !operator && !FUNCTIONS.contains(&name) {
                    let known = FUNCTIONS.join(", ");
                    return Err(format!(
                        "function {name:?} is not known, expected one of: {known}, has, exists, exists_one, all, filter"
                    ));
                }
                if let (operators::INDEX, [map, key]) = (name, call.args.as_slice())
                    && let Node::Literal(LiteralValue::String(field)) = &key.expr
                {
                    self.field(map, field.inner(), false)?;
                }
                let target = call.target.as_deref();
                target.into_iter().chain(&call.args).try_for_each(|arg| self.node(arg, depth + 1, loops))
            }
            Node::List(list) => list.elements.iter().try_for_each(|item| self.node(item, depth + 1, loops)),
            Node::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.node(&entry.key, depth + 1, loops)?;
                    self.node(&entry.value, depth + 1, loops)
                }
                EntryExpr::StructField(_) => Err("a field outside a message, expected key: value".to_owned()),
            }),
            Node::Comprehension(each) => {
                if loops == LOOPS_MAX {
                    return Err(format!("loops nested deeper than {LOOPS_MAX}"));
                }
                if !builds_no_more_than_its_input(&each.accu_init, &each.loop_step, &each.iter_var) {
                    return Err("map() is not available, expected exists, exists_one, all or filter".to_owned());
                }
                self.node(&each.iter_range, depth + 1, loops)?;
                let before = self.bound.len();
                self.bound.push(each.iter_var.clone());
                self.bound.extend(each.iter_var2.clone());
                for part in [&each.accu_init, &each.loop_cond, &each.loop_step, &each.result] {
                    self.node(part, depth + 1, loops + 1)?;
                }
                self.bound.truncate(before);
                Ok(())
            }
            Node::Struct(_) => Err("messages are not available, expected a condition".to_owned()),
            Node::Unspecified => Err("an empty term, expected a condition".to_owned()),
        }
    }

    /// `variable.field`, `variable["field"]` or, with `test`, `has(variable.field)`.
    fn field(&mut self, of: &IdedExpr, field: &str, test: bool) -> Result<(), String> {
        let Node::Ident(variable) = &of.expr else { return Ok(()) };
        if self.bound.contains(variable) {
            return Ok(());
        }
        self.names.check_field(variable, field)?;
        if variable == "facts" || variable == "fact_age_s" {
            let set = if test { &mut self.optional } else { &mut self.facts };
            set.insert(field.to_owned());
        }
        Ok(())
    }
}

/// `map` can multiply the sizes of lists; the other macros pick elements or reduce to one value.
fn builds_no_more_than_its_input(init: &IdedExpr, step: &IdedExpr, variable: &str) -> bool {
    fn appended(step: &IdedExpr) -> Option<&IdedExpr> {
        let Node::Call(call) = &step.expr else { return None };
        match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::ADD, [_, added]) => Some(added),
            (operators::CONDITIONAL, [_, yes, _]) => appended(yes),
            _ => None,
        }
    }
    if !matches!(init.expr, Node::List(_)) {
        return true;
    }
    let Some(Node::List(list)) = appended(step).map(|added| &added.expr) else { return false };
    matches!(list.elements.as_slice(), [only] if matches!(&only.expr, Node::Ident(name) if name == variable))
}

/// The functions that expressions may call; built once per policy.
pub(super) struct Scope {
    env: Arc<Env>,
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope")
    }
}

impl Scope {
    pub(super) fn new() -> Self {
        Self { env: Arc::new(Env::stdlib()) }
    }

    /// Binds the values of one snapshot.
    pub(super) fn bind(&self, snapshot: &Snapshot) -> Bound<'_> {
        let mut context = Context::with_env(Arc::clone(&self.env));
        let census = snapshot.census.iter().map(|(role, count)| (role.clone(), i64::from(*count))).collect();
        context.add_variable_as_val("census", Box::new(Census(census)));
        let node = &snapshot.node;
        let queue = &snapshot.queue;
        let number = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
        let strings =
            |set: &BTreeSet<String>| Value::List(Arc::new(set.iter().take(NODE_LIST_MAX).cloned().map(text).collect()));
        let queue = [
            ("needed", number(queue.needed)),
            ("delegated", number(queue.delegated)),
            ("building", number(queue.building)),
            ("received", number(queue.received)),
            ("blocked", number(queue.blocked)),
            ("failed", number(queue.failed)),
            ("cancelled", number(queue.cancelled)),
            ("quarantined", number(queue.quarantined)),
        ];
        let node = [
            ("cpu_cores", Value::Int(node.cpu_cores.into())),
            ("ram_gb", Value::Int(node.ram_gb.into())),
            ("disk_free_gb", Value::Int(node.disk_free_gb.into())),
            ("arch", text(node.arch.clone())),
            ("distro", text(node.distro.clone())),
            ("distro_version", text(node.distro_version.clone())),
            ("virt", text(node.virt.clone())),
            ("has_gpu", Value::Bool(node.has_gpu)),
            ("docker_installed", Value::Bool(node.docker_installed)),
            ("languages", strings(&node.languages)),
            (
                "tools",
                map(node.tools.iter().take(NODE_LIST_MAX).map(|(name, version)| (name.clone(), text(version.clone())))),
            ),
            ("labels", strings(&node.labels)),
        ];
        let fields =
            |fields: &[(&str, Value)]| map(fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let facts = &snapshot.facts;
        for (name, value) in [
            ("members", Value::Int(snapshot.members.into())),
            ("queue", fields(&queue)),
            ("node", fields(&node)),
            ("facts", map(facts.iter().map(|(name, fact)| (name.clone(), from_json(&fact.value))))),
            ("fact_age_s", map(facts.iter().map(|(name, fact)| (name.clone(), number(fact.age_ms / 1_000))))),
        ] {
            context.add_variable_from_value(name, value);
        }
        Bound { context }
    }
}

fn text(text: String) -> Value {
    Value::String(Arc::new(text))
}

fn map(entries: impl Iterator<Item = (String, Value)>) -> Value {
    let entries = entries.map(|(key, value)| (Key::String(Arc::new(key)), value)).collect();
    Value::Map(Map { map: Arc::new(entries) })
}

/// Whole numbers become `int`, so that `facts.x + 1` works as it does for everything else here.
fn from_json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Bool(*flag),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Value::Int(int),
            (None, Some(uint)) => Value::UInt(uint),
            (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
        },
        serde_json::Value::String(string) => text(string.clone()),
        serde_json::Value::Array(items) => Value::List(Arc::new(items.iter().map(from_json).collect())),
        serde_json::Value::Object(fields) => map(fields.iter().map(|(key, value)| (key.clone(), from_json(value)))),
    }
}

/// `census[role]`: a role that nobody holds counts 0.
#[derive(Debug, Clone)]
struct Census(BTreeMap<String, i64>);

static CENSUS_TYPE: Type = Type::new_unspecified_type("census");

impl Val for Census {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &CENSUS_TYPE
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Census {}

impl Indexer for Census {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let role = index.downcast_ref::<CelString<'_>>().ok_or_else(|| ExecutionError::UnexpectedType {
            got: index.get_type().name().to_owned(),
            want: "the name of a role".to_owned(),
        })?;
        Ok(CowVal::owned(CelInt::from(self.0.get(role.inner()).copied().unwrap_or(0))))
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

/// Values of one snapshot.
pub(super) struct Bound<'s> {
    context: Context<'s, 's>,
}

impl Bound<'_> {
    /// Whether a condition holds, or why that cannot be told.
    pub(super) fn is_true(&self, expr: &Expr) -> Result<bool, String> {
        match Value::resolve(&expr.tree, &self.context) {
            Ok(Value::Bool(flag)) => Ok(flag),
            Ok(other) => Err(format!("its condition gives {:?}, expected true or false", other.type_of())),
            Err(error) => Err(format!("its condition fails: {error}")),
        }
    }

    /// A cap that is computed.
    pub(super) fn count(&self, expr: &Expr) -> Result<u32, String> {
        let number = match Value::resolve(&expr.tree, &self.context) {
            Ok(Value::Int(number)) => number,
            Ok(Value::UInt(number)) => i64::try_from(number).unwrap_or(i64::MAX),
            Ok(other) => return Err(format!("its cap gives {:?}, expected a whole number", other.type_of())),
            Err(error) => return Err(format!("its cap fails: {error}")),
        };
        if number < 1 {
            return Err(format!("its cap is {number}, which leaves no room"));
        }
        Ok(u32::try_from(number).unwrap_or(u32::MAX))
    }
}
