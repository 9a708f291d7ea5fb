//! Marking: what roots reach, by containerd's rules, and in which order the rest goes.
//!
//! Pure and synchronous: arrays in, arrays out. The rules, each with a test in `tests/suite/collect.rs`:
//! - containers, sandboxes, images and leases are roots; the last two until `containerd.io/gc.expire`;
//! - content and snapshots are roots with a label `containerd.io/gc.root…`, or for a day when made without a lease;
//! - a root holds what its fields, its `gc.ref.…` labels and others' `gc.bref.…` labels name, and so on from there;
//! - a lease with `containerd.io/gc.flat` holds its resources, and of what these name only what their fields do
//!   (parents of snapshots, targets of images); an ingest's expected blob is held in full all the same;
//! - a name without a record holds nothing by itself, but back references to it lead on.

use std::collections::VecDeque;

use super::graph::{Graph, Index};
use super::order::{Order, holders_first};
use crate::node::{EdgeKind, NodeKind};

/// How firmly a node is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    /// Not at all.
    None,
    /// Through a flat lease: with it what its fields name.
    Flat,
    /// With everything it names.
    Full,
}

/// What is held.
#[derive(Debug)]
pub(crate) struct Marks {
    levels: Vec<Level>,
}

/// For each node and level the node that held it first: paths from roots, as short as any.
#[derive(Debug)]
pub(crate) struct Trace {
    marks: Marks,
    flat: Vec<Option<Index>>,
    full: Vec<Option<Index>>,
}

/// Marks what is held at `now`, in nanoseconds since 1970.
pub(crate) fn mark(graph: &Graph, now: i64) -> Marks {
    let mut marks = Marks {
        levels: vec![Level::None; graph.len()],
    };
    marks.spread(graph, roots(graph, now), |_, _, _| {});
    marks
}

/// As [`mark`], and remembers the way.
pub(crate) fn trace(graph: &Graph, now: i64) -> Trace {
    let mut marks = Marks {
        levels: vec![Level::None; graph.len()],
    };
    let mut flat = vec![None; graph.len()];
    let mut full = vec![None; graph.len()];
    marks.spread(graph, roots(graph, now), |source, target, level| {
        let first = match level {
            Level::None => return,
            Level::Flat => &mut flat[target as usize],
            Level::Full => &mut full[target as usize],
        };
        *first = Some(source);
    });
    Trace { marks, flat, full }
}

/// Whether a node is kept by itself at `now`.
pub(crate) fn is_root(graph: &Graph, index: Index, now: i64) -> bool {
    let node = graph.node(index);
    node.live && node.root && node.expires_at.is_none_or(|until| now <= until)
}

fn roots(graph: &Graph, now: i64) -> VecDeque<Index> {
    graph
        .indices()
        .filter(|index| is_root(graph, *index, now))
        .collect()
}

impl Marks {
    /// How firmly a node is held.
    pub(crate) fn level(&self, index: Index) -> Level {
        self.levels[index as usize]
    }

    /// Holds a node in full, and what it names: it was named or made a root after the arrays were read.
    ///
    /// Whatever holds it now may itself not be held. It stays until the next pass, which is right in any case.
    pub(crate) fn hold(&mut self, graph: &Graph, index: Index) {
        if self.level(index) < Level::Full {
            self.spread(graph, VecDeque::from([index]), |_, _, _| {});
        }
    }

    /// Records that nothing holds and collection may remove, in the order in which they may go.
    pub(crate) fn doomed(&self, graph: &Graph) -> Order {
        let is_doomed = |index| self.level(index) == Level::None;
        let is_listed = |index| graph.node(index).live && is_collectable(graph.node(index).kind);
        holders_first(graph, is_doomed, is_listed)
    }

    fn spread(
        &mut self,
        graph: &Graph,
        mut queue: VecDeque<Index>,
        mut first: impl FnMut(Index, Index, Level),
    ) {
        for index in &queue {
            self.levels[*index as usize] = Level::Full;
        }
        while let Some(source) = queue.pop_front() {
            for (target, kind) in graph.edges(source) {
                let level = reach(graph, (source, self.level(source)), target, kind);
                if level > self.level(target) {
                    self.levels[target as usize] = level;
                    first(source, target, level);
                    queue.push_back(target);
                }
            }
        }
    }
}

/// How firmly `source` holds `target` through one edge.
fn reach(graph: &Graph, (source, level): (Index, Level), target: Index, kind: EdgeKind) -> Level {
    let lease = graph.node(source);
    if lease.kind == NodeKind::Lease {
        // containerd has flat forms of all resources but ingests.
        let whole = !lease.flat || graph.node(target).kind == NodeKind::Ingest;
        return if whole { Level::Full } else { Level::Flat };
    }
    match (level, kind) {
        (Level::Full, _) => Level::Full,
        (Level::Flat, EdgeKind::Field) => Level::Flat,
        (Level::Flat, EdgeKind::Label | EdgeKind::BackLabel | EdgeKind::Lease) => Level::None,
        (Level::None, _) => Level::None,
    }
}

const fn is_collectable(kind: NodeKind) -> bool {
    match kind {
        NodeKind::Content
        | NodeKind::Snapshot
        | NodeKind::Image
        | NodeKind::Lease
        | NodeKind::Ingest
        | NodeKind::Mount => true,
        NodeKind::Container | NodeKind::Sandbox => false,
    }
}

impl Trace {
    /// The way from a root to a node, both included. Empty if nothing holds it.
    pub(crate) fn path(&self, graph: &Graph, target: Index) -> Vec<Index> {
        let mut level = self.marks.level(target);
        if level == Level::None {
            return Vec::new();
        }
        let mut path = vec![target];
        let mut current = target;
        loop {
            let holder = match level {
                Level::Flat => self.flat[current as usize],
                Level::Full | Level::None => self.full[current as usize],
            };
            let Some(holder) = holder else { break };
            if graph.node(holder).kind == NodeKind::Lease {
                level = Level::Full;
            }
            path.push(holder);
            current = holder;
        }
        path.reverse();
        path
    }

    #[cfg(test)]
    fn level(&self, index: Index) -> Level {
        self.marks.level(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::graph::{Edge, Node};
    use super::*;

    const NOW: i64 = 1000;

    const KINDS: [NodeKind; 8] = [
        NodeKind::Content,
        NodeKind::Snapshot,
        NodeKind::Container,
        NodeKind::Image,
        NodeKind::Lease,
        NodeKind::Ingest,
        NodeKind::Sandbox,
        NodeKind::Mount,
    ];

    /// A node of any kind; leases, containers and sandboxes cannot be named by a label, so edges avoid them as targets.
    fn any_node() -> impl Strategy<Value = Node> {
        let expiry = prop_oneof![Just(None), Just(Some(NOW - 1)), Just(Some(NOW))];
        let flags = (any::<bool>(), any::<bool>(), 0..4_u8);
        (0..8_usize, flags, expiry).prop_map(|(kind, (live, flat, root), expires_at)| Node {
            id: 0,
            kind: KINDS[kind],
            live,
            root: live
                && (root == 0 || matches!(KINDS[kind], NodeKind::Container | NodeKind::Sandbox)),
            flat,
            expires_at: match KINDS[kind] {
                NodeKind::Container | NodeKind::Sandbox => None,
                NodeKind::Content
                | NodeKind::Snapshot
                | NodeKind::Image
                | NodeKind::Lease
                | NodeKind::Ingest
                | NodeKind::Mount => expires_at,
            },
        })
    }

    fn any_edges(nodes: usize) -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
        prop::collection::vec((0..nodes, 0..nodes, 0..3_u8), 0..nodes * 2)
    }

    prop_compose! {
        fn any_world()(nodes in prop::collection::vec(any_node(), 1..30))
            (edges in any_edges(nodes.len()), late in any_edges(nodes.len()), nodes in Just(nodes),
             after in prop::collection::vec(0..40_usize, 0..6))
            -> (Vec<Node>, Vec<Edge>, Vec<(usize, Edge)>) {
            let nodes: Vec<Node> = nodes.into_iter().zip(1..)
                .map(|(node, id)| Node { id: id * 3, ..node }).collect();
            let edges = edges_of(&nodes, edges);
            let late = edges_of(&nodes, late).into_iter().zip(after).map(|(edge, at)| (at, edge)).collect();
            (nodes, edges, late)
        }
    }

    /// Edges as records make them: leases only hold, fields form no circle.
    fn edges_of(nodes: &[Node], picks: Vec<(usize, usize, u8)>) -> Vec<Edge> {
        let index = |at: usize| Index::try_from(at).unwrap();
        picks
            .into_iter()
            .filter(|(_, target, _)| nodes[*target].kind != NodeKind::Lease)
            .filter_map(|(source, target, kind)| {
                let kind = match (nodes[source].kind, kind) {
                    (NodeKind::Lease, _) => EdgeKind::Lease,
                    // A name without a record has no fields and labels of its own.
                    (_, 0 | 1) if !nodes[source].live => return None,
                    (_, 0) if source < target => EdgeKind::Field,
                    (_, 0) => return None,
                    (_, 1) => EdgeKind::Label,
                    (_, _) => EdgeKind::BackLabel,
                };
                Some((index(source), index(target), kind))
            })
            .collect()
    }

    /// Whose record says that an edge is there, and takes it along when it goes.
    fn owner((source, target, kind): &Edge) -> Index {
        match kind {
            EdgeKind::BackLabel => *target,
            EdgeKind::Field | EdgeKind::Label | EdgeKind::Lease => *source,
        }
    }

    /// The rules again, as a closure over facts that is repeated until nothing new follows.
    fn naive(nodes: &[Node], edges: &[Edge]) -> Vec<Level> {
        let mut levels: Vec<Level> = nodes
            .iter()
            .map(|node| {
                let kept =
                    node.live && node.root && node.expires_at.is_none_or(|until| until >= NOW);
                if kept { Level::Full } else { Level::None }
            })
            .collect();
        loop {
            let mut changed = false;
            for (source, target, kind) in edges {
                let (from, to) = (*source as usize, *target as usize);
                let is_flat_lease = nodes[from].kind == NodeKind::Lease && nodes[from].flat;
                let flat = if is_flat_lease {
                    nodes[to].kind != NodeKind::Ingest
                } else {
                    levels[from] == Level::Flat
                };
                let follows = levels[from] == Level::Full
                    || (levels[from] == Level::Flat && *kind == EdgeKind::Field);
                let level = match (follows, flat) {
                    (false, _) => Level::None,
                    (true, true) => Level::Flat,
                    (true, false) => Level::Full,
                };
                if level > levels[to] {
                    levels[to] = level;
                    changed = true;
                }
            }
            if !changed {
                return levels;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn marks_are_those_of_the_naive_model((nodes, edges, _) in any_world()) {
            let graph = Graph::new(nodes.clone(), &edges);
            let marks = mark(&graph, NOW);
            prop_assert_eq!(&marks.levels, &naive(&nodes, &edges));
        }

        #[test]
        fn a_path_is_a_chain_of_holders_from_a_root((nodes, edges, _) in any_world()) {
            let graph = Graph::new(nodes, &edges);
            let traced = trace(&graph, NOW);
            for index in graph.indices() {
                let path = traced.path(&graph, index);
                prop_assert_eq!(path.is_empty(), traced.level(index) == Level::None);
                if let Some(root) = path.first() {
                    prop_assert!(is_root(&graph, *root, NOW));
                    prop_assert_eq!(path.last(), Some(&index));
                }
                for pair in path.windows(2) {
                    prop_assert!(graph.edges(pair[0]).any(|(target, _)| target == pair[1]));
                }
            }
        }

        #[test]
        fn the_order_has_every_doomed_record_once_and_holders_first((nodes, edges, _) in any_world()) {
            let graph = Graph::new(nodes, &edges);
            let marks = mark(&graph, NOW);
            let order = marks.doomed(&graph);
            let expected: Vec<Index> = graph.indices().filter(|index| {
                let node = graph.node(*index);
                marks.level(*index) == Level::None && node.live && is_collectable(node.kind)
            }).collect();
            let mut sorted = order.records.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, expected);
            let place = |index: Index| order.records.iter().position(|other| *other == index);
            for (source, target, kind) in &edges {
                if let (Some(first), Some(second)) = (place(*source), place(*target)) {
                    let together = first > second && order.joined[second + 1..=first].iter().all(|joined| *joined);
                    prop_assert!(first <= second || (together && *kind != EdgeKind::Field));
                }
            }
        }

        /// Records go one by one while others add edges; what is reachable in the end must still be there.
        #[test]
        fn what_is_named_during_the_removal_is_kept((nodes, edges, late) in any_world()) {
            let graph = Graph::new(nodes.clone(), &edges);
            let mut marks = mark(&graph, NOW);
            let order = marks.doomed(&graph);
            let mut removed = vec![false; nodes.len()];
            let mut all = edges.clone();
            for (step, index) in order.records.iter().enumerate() {
                // Nobody else writes in the middle of a transaction.
                let between = late.iter().filter(|(at, _)| *at == step && !order.joined[step]);
                for (_, edge) in between {
                    // Only what is there can name, and be named as there.
                    if !removed[edge.0 as usize] && !removed[edge.1 as usize] {
                        all.push(*edge);
                        marks.hold(&graph, edge.1);
                    }
                }
                if marks.level(*index) == Level::None {
                    removed[*index as usize] = true;
                    all.retain(|edge| owner(edge) != *index);
                }
            }
            let levels = naive(&nodes, &all);
            for index in graph.indices() {
                prop_assert!(!removed[index as usize] || levels[index as usize] == Level::None);
            }
        }
    }
}
