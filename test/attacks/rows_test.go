package attacks

// threats are rows of the threat model.
func threats() []attack {
	return []attack{
		{"T1", "a process number is used again between connecting and being measured", "the kernel's own reference to the process is held and asked last; what ended is nobody", "internal/platform/host.TestEndedProcessIsRefused internal/platform/host.TestWithoutPeerPIDFDAYoungerProcessIsRefused internal/workload.TestChangedProcessGetsNothing"},
		{"T2", "connect, hand the socket to a child, become another program", "the program (device, inode) is compared when the answer is sent; path or digest alone never suffice in a rule", "internal/platform/host.TestExecAfterConnectIsRefused internal/workload.TestChangedProcessGetsNothing internal/registry.TestPoint6PathAndDigestNeverSufficeAlone"},
		{"T3", "a deleted, replaced or memory-only program, odd names", "such a program has neither path nor digest", "internal/platform/host.TestDeletedAndMemoryProgramsHaveNoPath internal/platform/host.TestOddProgramNamesAreLeftOut"},
		{"T5", "one user takes all streams, connections or descriptors of the agent, or sends giant metadata", "512 streams and 1024 connections a user, 4 KiB of metadata; others are served meanwhile", "test/attacks.TestThreatT05AnotherUserTakesAllConnections internal/workload.TestStreamsOfOneUserAreLimited internal/workload.TestConnectionsOfOneUserAreLimited"},
		{"T6", "be first with a directory in /tmp and play agent or server; replace the agent's socket", "a socket below a directory for everybody counts only if it is one's own or root's; the agent's is made in a private directory", "test/attacks.TestThreatT06SocketOfAnotherUser kith.TestSocketOfAnotherUserIsRefused internal/config.TestCheckOwners internal/config.TestDirectoriesArePrivate internal/agent.TestStaleSocketIsReplacedAndOthersAreLeft"},
		{"T7", "a browser, or a program tricked into a request, calls the Workload API", "without the exact security header, or by HTTP/1, nothing is answered", "test/attacks.TestThreatT07RequestsWithoutTheHeader internal/workload.TestRule75SecurityHeaderIsRequired internal/workload.TestRule75PlainHTTPGetsNothing"},
		{"T8", "a node asks for identities that are not its own, by CSR or by attributes", "the server evaluates the rules itself; of a CSR only the key counts", "internal/server.TestServerDecidesWhatIsSigned internal/ca.TestCSRGivesOnlyAKey internal/api.TestKeyOfTakesOnlyTheKey internal/registry.TestPoint1AgentsCannotSayNodeAttributes"},
		{"T10", "a join token is used twice, or by 200 at once, or across a crash", "the token goes in the transaction that admits the node: exactly once", "internal/server.TestTokenAdmitsExactlyOnce internal/platform/proof.TestTokenAdmitsExactlyOneOfMany internal/store.TestConsumptionSurvivesAKill"},
		{"T13", "SPIFFE IDs with dots, escapes, upper case, empty segments, queries", "one grammar, no decoding; the name is read from the certificate byte for byte", "spiffe.FuzzParseID spiffe.TestRule09EmptyAndDotSegments spiffe.TestURINameIsReadRaw test/vectors.TestStricterThanTheLibrary"},
		{"T14", "attributes that break out of the template of an ID", "each value is confined to its segment", "internal/registry.TestPoint3ValuesAreConfined internal/registry.TestReservedPathsCannotBeReached internal/registry.FuzzTemplate"},
		{"T15", "lists, rules, requests without end", "everything from outside has a bound that is checked before it is read or kept", "internal/policy.TestListsAreBounded internal/registry.TestCostIsLimited internal/server.TestAttestationIsBounded internal/config.TestLoadBounds"},
		{"T16", "call what one may not: every method by every kind of caller", "a table of methods denies what it does not allow; on the host only root and the server's user are admins", "internal/server.TestMatrix internal/api.TestAdminLetsInRootAndItself internal/api.TestUnknownMethodIsRefused test/attacks.TestThreatT16AnotherUserIsNobody"},
		{"T20", "steal the store, its log or a backup", "the root's key is sealed under a key in another file, tokens are hashed; no private key is found in the store", "test/attacks.TestThreatT20And22SecretsStayWhereTheyBelong internal/ca.TestRootAtRest internal/keys.TestSealIsBoundToPurposeAndKey"},
		{"T22", "find secrets in logs, metrics, answers, errors, files", "canaries of all kinds are in none of them; no file of the state directory can be read by others", "test/attacks.TestThreatT20And22SecretsStayWhereTheyBelong internal/keys.TestKeysDoNotPrint internal/platform/proof.TestTokenNeverShowsItself internal/api.TestInternalErrorsStayInTheLog"},
		{"T23", "come back with a session ticket after a ban or a change of roots", "there are no tickets; live connections are verified again", "test/attacks.TestThreatT23NoResumption spiffe.TestRotationAndNoResumption internal/proxy.TestRootRemovedCutsConnections"},
		{"T24", "stand between a joining node and its server", "the root is pinned in the join line: the token is never sent, and still good afterwards", "test/attacks.TestThreatT24ManInTheMiddleOfAJoin spiffe.TestPinnedClientTLS test/hosts.TestJoinRefusesWrongPinAndUsedToken"},
		{"T29", "certificates with thousands of names, chains without end, expensive constraints", "10 certificates and 64 KiB before anything is verified; no case of BetterTLS takes a second", "spiffe.TestChainBounds test/attacks.TestAttack25StrangersAtTheDoor test/vectors.TestBetterTLS"},
		{"T30", "move the clock", "the authority refuses to sign behind what it has seen; skew is measured and named", "internal/ca.TestClockBehindRefuses internal/server.TestClockThatWentBackIsRefused test/hosts.TestClockTenMinutesOffIsNamed"},
		{"T36", "another user dials the proxy's local listener, also sending and closing before it looks", "sock_diag says whose the socket is; a closed one, which the kernel calls root's, is nobody's", "test/attacks.TestThreatT36LocalListenerOfAnotherUser internal/proxy.TestAnotherUserIsRefused internal/proxy.TestAClosedConnectionHasNoOwner"},
		{"T38", "another process of the same user reads memory, environment or core", "server, agent and dev are not dumpable: /proc and ptrace are closed", "test/attacks.TestThreatT38MemoryIsClosed"},
		{"T39", "a label or a log line for every name a caller makes up", "labels come from closed sets, tables of strangers are bounded", "test/attacks.TestThreatT39NamesFromOutsideAreNoLabels internal/api.TestLimiterTableIsBounded internal/proxy.TestMetrics"},
		{"T40", "quotes, lines and escapes in names and join lines", "names are one word; what others have named is printed without control characters", "test/attacks.TestThreatT40NamesAreNoCommands cmd/kith.FuzzParseJoin cmd/kith.TestReportEndsWithTheHint"},
	}
}

// attacks are rows of the list of attacks on proxies and policy engines.
func attacks() []attack {
	const spellings = "test/attacks.TestAttack01To13PathSpellings internal/policy.TestAttackPathSpellings"
	return []attack{
		{"1", "double, encoded and back slashes", "refused, or decided as the back end reads it (nginx and Go)", spellings + " internal/policy.TestAttack01KeptSlashes"},
		{"2", "a fragment in the target", "refused", spellings},
		{"3", "a query or fragment behind an exact path", "the query is no part of the path; a fragment is refused", spellings},
		{"4", "dot segments raw, encoded, twice encoded, overlong, with parameters", "resolved or refused; nothing is left for a back end to resolve", spellings + " internal/policy.TestNoBackEndSeesAnotherPath"},
		{"5", "other case in methods and paths, method overrides", "compared as sent; override headers do not arrive", "test/attacks.TestAttack05And06MethodsAndHosts internal/policy.TestAttack05MethodCase"},
		{"6", "hosts with ports, dots, users, addresses; absolute form; two hosts", "one host arrives, as sent; what is ambiguous is refused", "test/attacks.TestAttack05And06MethodsAndHosts test/attacks.TestAttack54Smuggling"},
		{"7", "another server name or authority on one connection", "no name the caller says chooses a service: the listener's identity does", "test/attacks.TestAttack07HostAndServerNameChooseNothing"},
		{"8", "NUL, control bytes and other encodings in path and head", "refused with 400", spellings + " test/attacks.TestAttack54Smuggling"},
		{"12", "queries, plus signs and parameters taken for the path", "never part of the match", spellings},
		{"13", "HTTP/2 paths with spaces, without a slash, empty, absolute; CONNECT, extended CONNECT, OPTIONS *", "refused", "test/attacks.TestAttack54HTTP2ToHTTP1 internal/proxy.TestMethodsThatAreNoRequests"},
		{"14", "X-Original-URL, X-Rewrite-URL and their like", "do not change what is decided, and do not arrive", "internal/proxy.TestIdentityHeadersAreOursAlone test/attacks.TestAttack54Smuggling"},
		{"15", "forged X-Forwarded-Client-Cert and other identity headers, by any spelling, over HTTP/1 and 2, or removed through Connection", "one arrives, and it is the proxy's", "test/attacks.TestAttack15IdentityHeaders internal/proxy.TestIdentityHeadersAreOursAlone internal/proxy.TestTrailersDoNotCarryIdentity"},
		{"18", "one header twice", "no header but Host and framing plays a part in a decision; those twice are refused", "test/attacks.TestAttack54Smuggling"},
		{"19", "underscores for hyphens, line ends in values", "taken for the same name; line ends are refused", "test/attacks.TestAttack15IdentityHeaders test/attacks.TestAttack54HTTP2ToHTTP1 internal/proxy.FuzzStrip"},
		{"20", "NUL in a name, two URI names, no URI name, an authority as the leaf, odd IDs", "refused by the verifier and at the door", "test/vectors.TestStricterThanTheLibrary test/attacks.TestAttack25StrangersAtTheDoor"},
		{"21", "names with dots and stars acting as patterns", "a literal is never a pattern", "internal/policy.TestAttack21And23NamesAreLiteral"},
		{"22", "a deny that never fires for a form of source or protocol", "fires for every form on every protocol", "internal/policy.TestAttack22DenyFiresForEverySource"},
		{"23", "an ID that matches from its middle", "anchored on both ends", "internal/policy.TestAttack21And23NamesAreLiteral"},
		{"24", "confusable trust domains", "a source without a trust domain means the own one; each domain has its own bundle", "internal/policy.TestAttack24TrustDomains spiffe.TestRule72BundleOfTheSVIDsTrustDomain"},
		{"25", "self-signed, expired, foreign, re-signed certificates; a ban while connected", "no handshake; a banned node and a removed root lose open connections", "test/attacks.TestAttack25StrangersAtTheDoor internal/server.TestBanCutsAtOnce internal/proxy.TestRootRemovedCutsConnections"},
		{"28", "HTTP rules on TCP services and the other way round", "refused when applied; an enforcement point that gets one fails closed", "internal/policy.TestAttack28ProtocolsDoNotMix"},
		{"29", "a negation that is true because the attribute is missing", "Does not apply: rules have no negated fields. `except` of a deny narrows paths only, and anonymous callers match only rules that say so", ""},
		{"30", "empty lists that mean everything", "refused, or match nothing", "internal/policy.TestAttack30EmptyLists"},
		{"31", "a policy newer than its enforcement point", "refused whole, never enforced in part", "internal/policy.TestAttack31NewerSchemaIsRefused internal/agent.TestOpenMustBeUnderstood internal/agent.TestUnreadablePolicyIsPassedOnAndReported"},
		{"32", "no policy yet, controller away", "a proxy starts closed; later it keeps what it has", "internal/policy.TestAttack32WhatIsNotUnderstoodDoesNotCompile internal/proxy.TestStartsClosed internal/proxy.TestAgentKilledAndBack"},
		{"33", "a revoked right on streams, WebSockets and TCP that are open", "decided again at every change and cut; a change is acknowledged once all have swapped", "internal/proxy.TestStreamIsCutWhenDenied internal/proxy.TestTCPIsCutWhenDenied internal/proxy.TestEventStreamIsFlushedAndCutWhenDenied internal/server.TestApplyNamesLaggards"},
		{"54", "request smuggling: more than 200 vectors before nginx and Go, behind chunks, and from HTTP/2", "0 disagreements about boundaries, paths, hosts and callers", "test/attacks.TestAttack54Smuggling test/attacks.TestAttack54HTTP2ToHTTP1 internal/proxy.TestNothingHidesBehindChunks internal/proxy.FuzzChunks internal/proxy.FuzzReadHead kith.TestMalformedHTTP2Requests"},
		{"55", "rapid reset, CONTINUATION, PING, SETTINGS and header floods; slow heads, silent handshakes", "the flooded connection ends, others are served at once, slow callers are let go in ten seconds", "test/attacks.TestAttack55Floods test/attacks.TestAttack55SlowCallers"},
		{"56", "first bytes that come late, look like another protocol, or come from the server", "the directory says what is spoken; more bytes never change a clear answer", "internal/proxy.FuzzListenTo internal/proxy.TestConnectToRawTCPWhereTheServerSpeaksFirst internal/proxy.TestListenTo"},
		{"62", "a connection before the bundle is there", "no bundle, no handshake", "internal/proxy.TestStartsClosed spiffe.TestRule68EmptyBundleTrustsNothing spiffe.TestVerifyWithoutABundle"},
		{"65", "clocks ten minutes off, sleep, an authority that is away", "cached SVIDs are served at once, skew is named, an expired node comes back by its key", "test/attacks.TestAttack65ServerAwayChangesNothingAtOnce test/hosts.TestClockFiveMinutesOffWorks internal/agent.TestNodeRecoversAfterItsSVIDExpired"},
	}
}
