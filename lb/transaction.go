package lb

// transactionModes reads the modes of BEGIN, START TRANSACTION, SET TRANSACTION.
func transactionModes(st statement, i int) Effect {
	if st.at(i).is("work") || st.at(i).is("transaction") {
		i++
	}
	readOnly, unusual, isolation := false, false, false
	for i < len(st) {
		switch {
		case st.words(i, "isolation", "level", "serializable"):
			isolation, unusual = true, true
			i += 3
		case st.words(i, "isolation", "level", "repeatable", "read"):
			isolation = true
			i += 4
		case st.words(i, "isolation", "level", "read", "committed"), st.words(i, "isolation", "level", "read", "uncommitted"):
			i += 4
		case st.words(i, "read", "only"):
			readOnly = true
			i += 2
		case st.words(i, "read", "write"):
			unusual = unusual || readOnly
			readOnly = false
			i += 2
		case st.words(i, "not", "deferrable"):
			i += 2
		case st[i].self(','):
			i++
		default: // DEFERRABLE, SNAPSHOT, or a mode of a later version
			isolation, unusual = true, true
			i++
		}
	}
	var e Effect
	if readOnly && !unusual {
		e |= EffectReadOnly
	}
	if isolation {
		e |= EffectIsolation
	}
	return e
}

// end judges COMMIT, END, ROLLBACK and ABORT.
func (p *judgement) end(st statement) {
	undo := st[0].is("rollback") || st[0].is("abort")
	i := 1
	if st.at(i).is("work") || st.at(i).is("transaction") {
		i++
	}
	switch {
	case st.at(i).is("prepared"): // COMMIT PREPARED, ROLLBACK PREPARED: another's transaction
	case st.at(i).is("to") && st[0].is("rollback"): // ABORT has no TO
		p.savepoints(st)
	default:
		p.effects |= EffectEnd | EffectUnpin
		if st.words(i, "and", "chain") {
			p.effects |= EffectChain
		}
		p.rollback = undo && (i == len(st) || st.words(i, "and", "chain") && i+2 == len(st) ||
			st.words(i, "and", "no", "chain") && i+3 == len(st))
	}
}

// savepoints judges SAVEPOINT, RELEASE, and ROLLBACK TO, which undoes what was made
// since. What is not well-formed fails on the server and names nothing here.
func (p *judgement) savepoints(st statement) {
	p.effects |= EffectSavepoint
	kind, i := SavepointSet, 1
	switch st[0].text {
	case "release":
		kind = SavepointRelease
	case "rollback":
		kind = SavepointRollback
		p.effects |= EffectUnpin
		if !st.at(i).is("to") {
			i++
		}
		i++
	}
	if kind != SavepointSet && st.at(i).is("savepoint") && i+1 < len(st) {
		i++
	}
	if name := st.at(i); name.ident() && i+1 == len(st) && ascii(name.text) {
		p.savepoint, p.name = kind, name.name()
	}
}
