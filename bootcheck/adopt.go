package bootcheck

import "os"

// Foreign reports whether another program keeps the folder: its link current leads
// to a folder, and not by way of the switch. What Active has to say of such a
// folder is ErrEmpty.
func (s *Store) Foreign() bool {
	_, foreign := s.foreign()
	return foreign
}

// foreign is Foreign, and what the link says.
func (s *Store) foreign() (target string, foreign bool) {
	target, err := os.Readlink(s.path("current"))
	if err != nil || target == fixedTarget("current") {
		return "", false
	}
	info, err := os.Stat(s.path("current"))
	return target, err == nil && info.IsDir()
}
