//! In which order records go: every holder before what it holds, and those in a circle together.
//!
//! While holders go first, something that is named again in the middle of a removal is still whole. Labels can form
//! circles, which have no first: their records go in one transaction.

use std::collections::HashMap;

use super::graph::{Graph, Index};
use crate::node::EdgeKind;

/// Records in the order of their removal.
#[derive(Debug, Default)]
pub(crate) struct Order {
    pub(crate) records: Vec<Index>,
    /// Whether a record must go in the same transaction as the one before it.
    pub(crate) joined: Vec<bool>,
}

/// Orders the nodes that `is_in` picks and `is_listed` keeps; edges lead through all that are picked.
pub(crate) fn holders_first(
    graph: &Graph,
    is_in: impl Fn(Index) -> bool,
    is_listed: impl Fn(Index) -> bool,
) -> Order {
    let mut search = Search::new(graph, is_in);
    for index in graph.indices() {
        search.visit(index);
    }
    let mut order = Order::default();
    // Tarjan's algorithm gives components with all that they lead to before them.
    let mut end = search.found.len();
    for start in search.starts.iter().rev() {
        let component = &mut search.found[*start..end];
        end = *start;
        if component.len() > 1 {
            by_fields(graph, component);
        }
        let listed = component.iter().copied().filter(|index| is_listed(*index));
        for (place, index) in listed.enumerate() {
            order.records.push(index);
            order.joined.push(place > 0);
        }
    }
    order
}

/// Within a circle fields still give an order: a snapshot goes before its parent, in whose row it is named.
fn by_fields(graph: &Graph, component: &mut [Index]) {
    let mut holders: HashMap<Index, u32> = component.iter().map(|index| (*index, 0)).collect();
    let fields = |index: Index| {
        let edges = graph.edges(index);
        edges
            .filter(|(_, kind)| *kind == EdgeKind::Field)
            .map(|(target, _)| target)
    };
    for index in &*component {
        for target in fields(*index) {
            holders.entry(target).and_modify(|count| *count += 1);
        }
    }
    let mut ready: Vec<Index> = component
        .iter()
        .copied()
        .filter(|index| holders[index] == 0)
        .collect();
    let mut sorted = Vec::with_capacity(component.len());
    while let Some(index) = ready.pop() {
        sorted.push(index);
        for target in fields(index) {
            if let Some(count) = holders.get_mut(&target) {
                *count -= 1;
                if *count == 0 {
                    ready.push(target);
                }
            }
        }
    }
    // Fields in a circle are damage; then any order is as good.
    if sorted.len() == component.len() {
        component.copy_from_slice(&sorted);
    }
}

/// Tarjan's strongly connected components, without recursion: chains of labels may be long.
struct Search<'a, F> {
    graph: &'a Graph,
    is_in: F,
    /// When a node was first seen, from 1; 0 if it was not.
    seen: Vec<u32>,
    /// The earliest node on the stack that it leads to.
    low: Vec<u32>,
    on_stack: Vec<bool>,
    stack: Vec<Index>,
    count: u32,
    /// Members of components, one component after the other.
    found: Vec<Index>,
    /// Where in `found` each component starts.
    starts: Vec<usize>,
}

impl<'a, F: Fn(Index) -> bool> Search<'a, F> {
    fn new(graph: &'a Graph, is_in: F) -> Self {
        Self {
            graph,
            is_in,
            seen: vec![0; graph.len()],
            low: vec![0; graph.len()],
            on_stack: vec![false; graph.len()],
            stack: Vec::new(),
            count: 0,
            found: Vec::new(),
            starts: Vec::new(),
        }
    }

    fn visit(&mut self, first: Index) {
        if self.seen[first as usize] > 0 || !(self.is_in)(first) {
            return;
        }
        let mut path = vec![(first, 0)];
        self.enter(first);
        while let Some((index, next)) = path.last_mut() {
            let index = *index;
            if let Some(target) = self.graph.targets(index).get(*next).copied() {
                *next += 1;
                if !(self.is_in)(target) {
                    continue;
                }
                if self.seen[target as usize] == 0 {
                    self.enter(target);
                    path.push((target, 0));
                } else if self.on_stack[target as usize] {
                    self.lower(index, self.seen[target as usize]);
                }
                continue;
            }
            path.pop();
            if let Some((holder, _)) = path.last() {
                self.lower(*holder, self.low[index as usize]);
            }
            if self.low[index as usize] == self.seen[index as usize] {
                self.close(index);
            }
        }
    }

    fn enter(&mut self, index: Index) {
        self.count += 1;
        self.seen[index as usize] = self.count;
        self.low[index as usize] = self.count;
        self.on_stack[index as usize] = true;
        self.stack.push(index);
    }

    fn lower(&mut self, index: Index, to: u32) {
        let low = &mut self.low[index as usize];
        *low = (*low).min(to);
    }

    fn close(&mut self, index: Index) {
        self.starts.push(self.found.len());
        while let Some(member) = self.stack.pop() {
            self.on_stack[member as usize] = false;
            self.found.push(member);
            if member == index {
                return;
            }
        }
    }
}
