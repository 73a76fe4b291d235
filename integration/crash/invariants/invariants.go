// Package invariants judges what a crash left. It shares no code with the programs
// that it judges: what they believe wrongly, it must not believe too.
package invariants
