"""Causal scrubbing: test what a network's parts are claimed to carry, by swapping data.

Four things, in four modules:

    computation   Computation(nodes, output, size), Node(parents, function)
    samplers      Exact(), Agree(feature), Unconditioned(together=None), Fixed(row)
    hypothesis    Claim(node, sampler, children, path, avoid, others, per_parent, name)
    engine        scrub(computation, hypothesis, references, generator, draws=1) -> Scrubbed

`transformer.transformer(model, graph, prompts, named)` makes a computation of any model of ours;
`score` judges per-reference losses from any source and knows none of these. Example: the
sum of two terms, of which the first is claimed to carry the parity of x0, the second nothing:

    computation = Computation(
        {
            "double": Node(("input",), lambda rows: 2 * x0[rows]),
            "other": Node(("input",), lambda rows: x1[rows]),
            "sum": Node(("double", "other"), lambda double, other: double + other),
        },
        output="sum",
        size=len(x0),
    )
    hypothesis = Claim("sum", Exact(), (Claim("double", Agree(x0 % 2)),))
    scrubbed = scrub(computation, hypothesis, np.arange(len(x0)), np.random.default_rng(0))
    losses = abs(scrubbed.output - label[:, None])  # [reference, draw]

Recipes. A claim on all paths to a node: path=(...,), with avoid=(...) for what it must not pass. An
exact path: path=("m1", "m0"), read from the parent claim's node up. Other inputs kept:
others=Exact(). Two data a sample in all: others=Unconditioned("x'") everywhere. One draw for two
nodes: make them one node. A sum split in terms, a tensor split by position, estimate + rest: write
the graph that way. Values that are read often: `computation.tabulated(names)`, or `stored` lookups
of one's own. Large outputs: `scrub(..., measure=f)` with f(output, references) -> [sample, ...].
"""
