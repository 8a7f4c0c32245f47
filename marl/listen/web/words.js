// What the page says, by the reader's part.
"use strict";

const Words = (() => {
  const MARKS = ["red", "green", "blue"]; // landmarks 0, 1, 2 of mpe2, whose colours these are
  const letter = (symbol) => (symbol === null ? "…" : String.fromCharCode(65 + symbol));

  const PARTS = {
    listen: {
      name: "Listen",
      title: "What does it mean?",
      intro: [
        "Two neural networks made up a language for this game. You take the place of the listener.",
        "One of the three marks is your goal. Only the speaker knows which, and all it can do is say a letter. " +
          "Find out what its letters mean, and be quick to get there.",
      ],
      task: "Go where you are told.",
    },
    speak: {
      name: "Speak",
      title: "Make yourself understood",
      intro: [
        "Two neural networks made up a language for this game. You take the place of the speaker.",
        "You know the goal, the listener does not, and it only understands letters. Say one, watch where it goes, " +
          "and change your mind as often as you like.",
      ],
      task: "Send the listener to",
    },
    both: {
      name: "Take part",
      title: "Each knows where the other must go",
      intro: [
        "Two neural networks made up a language for this game. You take the place of one of them.",
        "Your partner knows your goal, you know your partner's. Say letters to send it there, listen to its letters, " +
          "and go where they tell you.",
      ],
      task: "Send your partner to",
    },
    watch: {
      name: "Watch",
      title: "How the pair does it",
      intro: [
        "The trained pair plays the same rounds by itself. Watch the letters and where they lead; then take a part.",
      ],
      task: "",
    },
  };

  const ROWS = {
    oracle: "best plan known",
    agents: "trained pair",
    you: "you",
    silent: "without a word",
    still: "standing still",
  };

  function keys(part, clocked) {
    const how = {
      listen: "arrow keys or WASD push, space waits",
      speak: "A, B, C say the letter",
      both: "arrows push, space waits, 1 to 0 speak",
      watch: "",
    }[part];
    return how ? `${how}${how && !clocked ? "; each is one step." : "."}` : "";
  }

  const pace = (clocked) => (clocked ? "One step at a time" : "Let time run");

  function about(part, game) {
    const cost = game.power === 2 ? "the square of the distance" : "the distance";
    const lines = [
      `A round is ${game.steps} steps; every step costs ${cost} from the goal. A push speeds you up and is felt one ` +
        "step later; the small ring shows where you would coast to. A letter is heard one step after it is said.",
      "100 points: the best plan known. 0: nobody moves. All scores are of these same rounds, drawn by the seeds of " +
        "mpe2 from " + game.episodes[0].seed + " on. “Without a word” is the best plan known that hears nothing.",
    ];
    if (part !== "listen") lines.push("You see more than the agents do: they never see each other.");
    return lines;
  }

  // The last words, from points by name.
  function verdict({ you, agents, silent }) {
    if (you === undefined) return "That is how it sounds when both know the language.";
    if (you >= agents - 2) return "As good as the pair that made the language up. You speak it.";
    if (you > silent) return "Better than going without a word: you understand each other.";
    return "No better than without a word, so far. The letters do mean something: play again.";
  }

  return { MARKS, PARTS, ROWS, about, keys, letter, pace, verdict };
})();
