//! The fields of the body that the rules of a subscription name: the union of their paths, as a tree.

use super::leaf::Test;
use super::rule::Pattern;

/// The tree. Each node is a field; a node's children have positions, which never change once given.
#[derive(Debug)]
pub(super) struct Fields {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// Whether some rule tests the leaves of this field.
    is_tested: bool,
    children: Vec<(Box<[u8]>, u32)>,
}

/// A pattern whose names are replaced by positions.
#[derive(Debug)]
pub(super) enum Bound {
    Tests(Vec<Test>),
    Object(Vec<(u32, Bound)>),
}

/// The whole body.
pub(super) const ROOT: u32 = 0;

impl Fields {
    pub(super) fn new() -> Self {
        Self { nodes: vec![Node::default()] }
    }

    /// Adds the paths of a pattern for the whole body.
    pub(super) fn bind_root(&mut self, pattern: Pattern) -> Bound {
        self.bind(ROOT, pattern)
    }

    /// Whether some rule tests the leaves of `node`.
    pub(super) fn is_tested(&self, node: u32) -> bool {
        self.nodes[node as usize].is_tested
    }

    /// How many fields of `node` some rule names.
    pub(super) fn width(&self, node: u32) -> usize {
        self.nodes[node as usize].children.len()
    }

    /// The position and the node of the field of `node` with this name.
    pub(super) fn child(&self, node: u32, name: &[u8]) -> Option<(u32, u32)> {
        let children = &self.nodes[node as usize].children;
        let position = children.iter().position(|(known, _)| **known == *name)?;
        Some((position as u32, children[position].1))
    }

    /// Recursion ends: patterns have a bounded depth.
    fn bind(&mut self, node: u32, pattern: Pattern) -> Bound {
        match pattern {
            Pattern::Tests(tests) => {
                self.nodes[node as usize].is_tested = true;
                Bound::Tests(tests)
            }
            Pattern::Object(fields) => Bound::Object(
                fields
                    .into_iter()
                    .map(|(name, pattern)| {
                        let (position, child) = self.child_or_add(node, name.as_bytes());
                        (position, self.bind(child, pattern))
                    })
                    .collect(),
            ),
        }
    }

    fn child_or_add(&mut self, node: u32, name: &[u8]) -> (u32, u32) {
        self.child(node, name).unwrap_or_else(|| {
            let added = self.nodes.len() as u32;
            self.nodes.push(Node::default());
            let children = &mut self.nodes[node as usize].children;
            children.push((name.into(), added));
            (children.len() as u32 - 1, added)
        })
    }
}
