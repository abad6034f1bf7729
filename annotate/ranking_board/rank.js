// The Rank page: one ranking task after the other.

runDesk(element, "ranking", rankingView());
