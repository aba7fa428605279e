"""Fourteen questions that somebody types who knows Cypher and has read docs/schema.md, and none of the named queries.

``tests/contract/test_questions.py`` holds each to a plain reading of the traces, on every store; ``python -m benchmarks.neo4j
questions`` times them at a million transitions, with and without the indexes of ``trails rebuild --indexes``.
"""

from __future__ import annotations

QUESTIONS: dict[str, str] = {
    "ways from IF to THEREFORE within four steps": (
        "MATCH (a:Step {role: 'IF'})-[:NEXT_STEP*1..4]->(b:Step {role: 'THEREFORE'}) "
        "RETURN count(*) AS ways, count(DISTINCT a.id) AS starts"
    ),
    "the chain of a record": (
        "MATCH (c:Chain {source_id: $record}) RETURN c.source AS source, c.id AS chain, c.roles AS roles ORDER BY source, chain"
    ),
    "tokens of one step": (
        "MATCH (t:Token {chain: $chain, step: 1}) RETURN t.position AS position, t.piece AS piece ORDER BY position"
    ),
    "steps that say something": (
        "MATCH (s:Step) WHERE s.text CONTAINS $text RETURN s.chain AS chain, s.index AS step ORDER BY chain, step"
    ),
    "transitions above a surprisal": (
        "MATCH (:Token)-[r:NEXT]->(t:Token) WHERE r.run = $run AND r.surprisal > $least "
        "RETURN t.chain AS chain, t.position AS position, r.surprisal AS nats ORDER BY nats DESC, chain, position"
    ),
    "chains by a run of roles": "MATCH (c:Chain) WHERE c.roles CONTAINS 'IF>THEN>BUT' RETURN count(c) AS chains",
    "what the last step looks at, token for token": (
        "MATCH (c:Chain {id: $chain})-[:HAS_STEP]->(l:Step)-[x:ATTENDS_TO]->(k:Step)-[m:MEASURED_STEP]->(:Run) "
        "WHERE l.index = c.n_steps - 1 AND x.run = $run AND m.run = $run AND m.n_tokens > 0 "
        "RETURN k.index AS step, x.mean / m.n_tokens AS each ORDER BY each DESC, step"
    ),
    "roles that follow BUT": (
        "MATCH (:Step {role: 'BUT'})-[:NEXT_STEP]->(b:Step) RETURN b.role AS role, count(*) AS n ORDER BY n DESC, role"
    ),
    "surprisal of the steps of a chain": (
        "MATCH (:Chain {id: $chain})-[:HAS_STEP]->(s:Step)-[m:MEASURED_STEP]->(:Run {id: $run}) "
        "RETURN s.index AS step, s.role AS role, m.mean_surprisal AS nats ORDER BY step"
    ),
    "tokens that follow a token": (
        "MATCH (t:Token {piece: $piece})-[r:NEXT]->(b:Token) WHERE r.run = $run "
        "RETURN b.piece AS piece, count(*) AS n, avg(r.surprisal) AS nats ORDER BY n DESC, piece LIMIT 10"
    ),
    "the hardest chains of a source": (
        "MATCH (c:Chain {source: $source})-[m:MEASURED]->(:Run) WHERE m.run = $run "
        "RETURN c.id AS chain, m.mean_surprisal AS nats ORDER BY nats DESC, chain LIMIT 10"
    ),
    "how each step of a chain begins": (
        "MATCH (:Chain {id: $chain})-[:HAS_STEP]->(s:Step)-[:FIRST]->(t:Token)<-[r:NEXT|BEGINS]-() WHERE r.run = $run "
        "RETURN s.index AS step, t.piece AS piece, r.surprisal AS nats ORDER BY step"
    ),
    "runs that measured a chain": (
        "MATCH (:Chain {id: $chain})-[m:MEASURED]->(r:Run) RETURN r.id AS run, m.n_tokens AS tokens, m.nll AS nats ORDER BY run"
    ),
    "the hardest THEREFORE after a BUT": (
        "MATCH (a:Step {role: 'BUT'})-[l:LEADS_TO]->(b:Step {role: 'THEREFORE'})-[m:MEASURED_STEP]->(:Run) "
        "WHERE l.run = $run AND m.run = $run "
        "RETURN b.id AS step, m.mean_surprisal AS nats ORDER BY nats DESC, step LIMIT 10"
    ),
}
"""What is asked, and the statement."""
