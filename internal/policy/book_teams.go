package policy

import "maps"

// Team is the one of a name, if there is one.
func (b *Book) Team(name string) (Team, bool) {
	t, ok := b.teams[name]
	return t, ok
}

// TeamNames yields the names of all teams, sorted.
func (b *Book) TeamNames() []string { return b.empty().teamNames() }

// PutTeam makes t the team of its name.
func (b *Book) PutTeam(t Team) {
	teams := maps.Clone(b.teams)
	if teams == nil {
		teams = map[string]Team{}
	}
	teams[t.Name] = t
	b.teams = teams
}

// RemoveTeam forgets a team.
func (b *Book) RemoveTeam(name string) {
	teams := maps.Clone(b.teams)
	delete(teams, name)
	b.teams = teams
}

// Sides are before and its fork as a Writer is asked about them: all of both, or
// where nothing but the rules of some names differs what these have to do with.
func (b *Book) Sides(before *Book, rulesOnly bool, rules ...string) (was, now Set) {
	if rulesOnly {
		if now, was, ok := b.around(before, rules); ok {
			return was, now
		}
	}
	return before.Set(), b.Set()
}
